"""The states of a served model: one table of transitions, one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class State(StrEnum):
    """What a model does."""

    WARMING = "warming"
    """It is timed and held to its golden cases, before it answers for the first time."""
    READY = "ready"
    """It answers."""
    RELOADING = "reloading"
    """Its session failed, and another is opened."""
    FAILED = "failed"
    """Its file is at fault: its golden cases disagree, or it can't be run."""
    LOST = "lost"
    """Its device is lost, and the process is about to end."""
    RETIRING = "retiring"
    """It answers what it has accepted, and nothing else."""
    RETIRED = "retired"
    """It answers nothing any more; its engine is closed."""


_S = State

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        _S.WARMING: frozenset({_S.READY, _S.RELOADING, _S.FAILED, _S.LOST, _S.RETIRING}),
        _S.READY: frozenset({_S.RELOADING, _S.LOST, _S.RETIRING}),
        # Its session may fail again before it has answered anything.
        _S.RELOADING: frozenset({_S.READY, _S.RELOADING, _S.LOST, _S.RETIRING}),
        # What could not be run may still be: it is tried again.
        _S.FAILED: frozenset({_S.READY, _S.FAILED, _S.LOST, _S.RETIRING}),
        _S.LOST: frozenset({_S.RETIRING}),
        _S.RETIRING: frozenset({_S.RETIRED}),
        _S.RETIRED: frozenset(),
    }
)

ENDED = frozenset({State.LOST, State.RETIRING, State.RETIRED})
"""From these no model comes back."""


class Status(NamedTuple):
    """A state and why, for clients; no reason while the model is ready."""

    state: State
    reason: str = ""


class StateMachine:
    """A model's status. Any thread may read and change it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = Status(State.WARMING, "warming up")

    @property
    def status(self) -> Status:
        """Return the state and its reason, which belong together."""
        return self._status

    def to(self, state: State, reason: str = "", change: Callable[[], None] = lambda: None) -> bool:
        """Change the state, and what belongs to it by `change`; False where the model has ended.

        Whoever prepares a model, as by loading it again, learns so that nobody wants it any more.
        Raises `ValueError` for a transition that is not in the table.
        """
        with self._lock:
            before = self._status.state
            if state not in TRANSITIONS[before]:
                if before in ENDED:
                    return False
                raise ValueError(f"a model that is {before} can't become {state}")
            change()
            self._status = Status(state, reason)
            return True
