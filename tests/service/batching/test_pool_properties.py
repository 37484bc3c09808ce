"""Several models on several runners, in any interleaving that a test can bring about."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stage import Stage, stage
from staged_calls import Ending

from service.batching.ticket import Priority

times = st.one_of(
    st.just([1.0, 1.0, 1.0, 1.0]),  # full batches are best
    st.just([1.0, 2.0, 3.0, 4.0]),  # batches do not pay
    st.lists(st.floats(0.01, 2), min_size=4, max_size=4),
)
some = st.integers(0, 30)
ENDS = ("a runner", "a model", "a model, at once", "the pool")


class SharedPool(RuleBasedStateMachine):
    """Arrivals, cancellations, faults, deaths and closings, in any order, with any timing.

    The rules between two pauses race with the runners; what is said of each take, and of each
    ticket in the end, holds all the same. `Stage` judges that.
    """

    @initialize(
        tables=st.lists(times, min_size=2, max_size=3),
        threads=st.integers(2, 4),
        runners=st.integers(1, 4),
        decoders=st.integers(1, 4),
        max_batch=st.integers(1, 4),
        serial=st.booleans(),
    )
    def begin(self, tables: list[list[float]], **limits: int) -> None:
        self.exits = contextlib.ExitStack()
        self.stage: Stage = self.exits.enter_context(stage(tables, **limits))

    def pick(self, number: int) -> int:
        return number % len(self.stage.batchers)

    @rule(
        model=some,
        count=st.integers(1, 6),
        time_s=st.floats(0.1, 20),
        priority=st.sampled_from(Priority),
        decode=st.booleans(),
        poisoned=st.sampled_from([False, False, False, True]),
        pause=st.booleans(),
    )
    def submit(self, model: int, pause: bool, **image: Any) -> None:
        self.stage.submit(self.pick(model), **image)
        if pause:
            self.stage.settle()

    @rule(which=some)
    def cancel(self, which: int) -> None:
        if entries := self.stage.entries:
            self.stage.cancel(entries[-1 - which % len(entries)])

    @rule(
        which=some,
        ending=st.sampled_from([Ending.ANSWER, Ending.ANSWER, Ending.FAIL]),
        pause=st.booleans(),
    )
    def end_a_call(self, which: int, ending: Ending, pause: bool) -> None:
        if calls := self.stage.blocked():
            calls[which % len(calls)].end(ending)
        if pause:
            self.stage.settle()

    @rule(seconds=st.floats(0.01, 10))
    def time_passes(self, seconds: float) -> None:
        self.stage.advance(seconds)

    @rule(which=some, what=st.sampled_from([*["nothing"] * 6, *ENDS]))
    def something_ends_for_good(self, which: int, what: str) -> None:
        if what == "a runner" and (calls := self.stage.blocked()):
            calls[which % len(calls)].end(Ending.DIE)
        elif what == "a model":
            self.stage.close_model(self.pick(which))
        elif what == "a model, at once":
            self.stage.give_up_model(self.pick(which))
        elif what == "the pool":
            self.stage.close_pool()

    @rule()
    def pause(self) -> None:
        self.stage.settle()

    @invariant()
    def nothing_is_wrong(self) -> None:
        if hasattr(self, "stage"):
            self.stage.check()

    def teardown(self) -> None:
        if hasattr(self, "stage"):
            with self.exits:
                self.stage.end()


TestSharedPool = SharedPool.TestCase
TestSharedPool.settings = settings(
    stateful_step_count=40,
    # Not shrunk: each attempt at a wake-up that never comes would take all of the patience.
    phases=set(Phase) - {Phase.shrink},
)
