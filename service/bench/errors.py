"""What keeps a benchmark from starting; each is printed as one line."""

from __future__ import annotations

from service.errors import StartupError


class BenchError(StartupError):
    """The benchmark can't run as it was asked to."""


class OptionError(BenchError):
    """A flag of `resnet-serve bench` has a bad value, or lacks another."""


class TargetError(BenchError):
    """The address is not one of this machine's loopback, or no server answers there."""


class ImagesError(BenchError):
    """The images to send can't be read."""


class TraceFileError(BenchError):
    """The arrival trace can't be read or is none."""


class ReferenceAnswerError(BenchError):
    """No reference answer for an image could be had."""


class GeneratorError(BenchError):
    """A process of the load generator has ended before its work was done."""
