"""Errors that end a benchmark; each is printed as one line."""

from __future__ import annotations

from service.errors import StartupError


class BenchError(StartupError):
    """The benchmark can't run as requested."""


class OptionError(BenchError):
    """A flag of `resnet-serve bench` has a bad value or requires another flag."""


class TargetError(BenchError):
    """The address is not on this machine's loopback, or no server answers there."""


class ImagesError(BenchError):
    """The images to send can't be read."""


class TraceFileError(BenchError):
    """The arrival trace can't be read or is invalid."""


class ReferenceAnswerError(BenchError):
    """There is no reference answer for an image."""


class GeneratorError(BenchError):
    """A load generator process can't be started, ended early or does not answer."""
