"""A model's states: every transition is in the table, and from an end there is no way back."""

from __future__ import annotations

import threading

import pytest

from service.models.state import ENDED, TRANSITIONS, State, StateMachine

WAYS = {
    State.WARMING: [],
    State.READY: [State.READY],
    State.RELOADING: [State.RELOADING],
    State.FAILED: [State.FAILED],
    State.LOST: [State.LOST],
    State.RETIRING: [State.RETIRING],
    State.RETIRED: [State.RETIRING, State.RETIRED],
}


def machine_in(state: State) -> StateMachine:
    machine = StateMachine()
    for step in WAYS[state]:
        assert machine.to(step, f"it is {step}")
    assert machine.status.state is state
    return machine


@pytest.mark.parametrize("after", State)
@pytest.mark.parametrize("before", State)
def test_a_transition_is_made_refused_or_a_defect_as_the_table_says(before, after):
    machine, changed = machine_in(before), []
    reason = machine.status.reason
    if after in TRANSITIONS[before]:
        assert machine.to(after, "why", lambda: changed.append(machine.status.state))
        assert machine.status == (after, "why")
        assert changed == [before], "what belongs to a state is there before the state is seen"
    elif before in ENDED:
        assert not machine.to(after, "why", lambda: changed.append(after))
        assert machine.status == (before, reason)
        assert not changed
    else:
        with pytest.raises(ValueError, match=f"that is {before} can't become {after}"):
            machine.to(after)
        assert machine.status == (before, reason)


def test_what_has_ended_never_answers_again():
    reachable = set(ENDED)
    for _ in State:
        for state in tuple(reachable):
            reachable |= TRANSITIONS[state]
    assert reachable == ENDED


def test_of_two_threads_that_end_a_model_one_does():
    machine, begin, made = machine_in(State.RETIRING), threading.Barrier(4), []

    def end() -> None:
        begin.wait(60)
        made.append(machine.to(State.RETIRED))

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
