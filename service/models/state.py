"""The states of a served model, with one table of transitions and one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class State(StrEnum):
    """What a model is doing."""

    WARMING = "warming"
    """Being timed and checked against its golden cases, before its first answer."""
    READY = "ready"
    """Answering requests."""
    RELOADING = "reloading"
    """Opening another session after its session failed."""
    FAILED = "failed"
    """Its file failed its golden cases or can't be run."""
    LOST = "lost"
    """Its device is lost, and the process is about to exit."""
    RETIRING = "retiring"
    """Only answering requests that it has already accepted."""
    RETIRED = "retired"
    """Not answering any more; its engine is closed."""


_S = State

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        _S.WARMING: frozenset({_S.READY, _S.RELOADING, _S.FAILED, _S.LOST, _S.RETIRING}),
        _S.READY: frozenset({_S.RELOADING, _S.LOST, _S.RETIRING}),
        # Its session may fail again before it has answered anything.
        _S.RELOADING: frozenset({_S.READY, _S.RELOADING, _S.LOST, _S.RETIRING}),
        # A model that could not be run is retried and may recover.
        _S.FAILED: frozenset({_S.READY, _S.FAILED, _S.LOST, _S.RETIRING}),
        _S.LOST: frozenset({_S.RETIRING}),
        _S.RETIRING: frozenset({_S.RETIRED}),
        _S.RETIRED: frozenset(),
    }
)

ENDED = frozenset({State.LOST, State.RETIRING, State.RETIRED})
"""States from which no model becomes ready again."""


class Status(NamedTuple):
    """A state and the reason for it, for clients; the reason is empty while the model is ready."""

    state: State
    reason: str = ""


class StateMachine:
    """A model's status. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = Status(State.WARMING, "warming up")

    @property
    def status(self) -> Status:
        """Return the state with the matching reason."""
        return self._status

    def to(self, state: State, reason: str = "", change: Callable[[], None] = lambda: None) -> bool:
        """Change the state, calling `change` under the lock; return False if the model has ended.

        So a thread that prepares a model, as by reloading it, learns that it is no longer wanted.
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
