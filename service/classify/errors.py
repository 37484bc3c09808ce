"""Errors that end `resnet-serve classify`; each is printed as one line."""

from __future__ import annotations

from service.errors import StartupError


class ClassifyError(StartupError):
    """The images can't be classified as requested."""


class OptionError(ClassifyError):
    """A flag has a bad value or requires another flag."""


class SourceError(ClassifyError):
    """A path is not there, or has no images."""


class JournalError(ClassifyError):
    """The file of a run that was cut off does not fit this run, or is in use."""


class OutputError(ClassifyError):
    """The rows can't be written."""


class CutOffError(ClassifyError):
    """The run can't go on: the server or the device does not answer any more."""
