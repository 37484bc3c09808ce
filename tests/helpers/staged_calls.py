"""Engine calls and decodes that end when, and as, a test says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from engines import FakeEngine, answered
from waiting import PATIENCE_S

from service.engine.base import Outputs, Pixels


class Ending(Enum):
    """How a piece of work ends."""

    ANSWER = auto()
    FAIL = auto()  # like a failing engine or decoder: any Exception
    DIE = auto()  # like a runner killed by a bug: not an Exception


class Defect(BaseException):
    """An error that `except Exception` does not catch."""


@dataclass(eq=False)
class Call:
    """An engine call, or a decode, that waits to be released."""

    values: list[int]
    is_decode: bool = False
    ending: Ending | None = None
    _shut: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._shut.acquire()

    def end(self, ending: Ending) -> None:
        self.ending = ending
        self._shut.release()

    def wait(self, poisoned: set[int]) -> None:
        """Wait for the release, and end as it says; a poisoned image never gets an answer."""
        if not self._shut.acquire(timeout=3 * PATIENCE_S):
            self.ending = Ending.FAIL
        if self.ending is Ending.ANSWER and poisoned.intersection(self.values):
            self.ending = Ending.FAIL
        if self.ending is Ending.FAIL:
            raise RuntimeError("fault")
        if self.ending is Ending.DIE:
            raise Defect


class StagedEngine(FakeEngine):
    """Answers an image with its value once it is released."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.poisoned: set[int] = set()

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        call = Call([int(image.view(np.uint32)[0, 0, 0]) for image in pixels])
        self.calls.append(call)
        call.wait(self.poisoned)
        return answered(np.array(call.values, np.float32)[:, np.newaxis])
