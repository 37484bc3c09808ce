"""Runners that several models share: who is woken, who comes first, and how one model ends."""

from __future__ import annotations

import pytest
from stage import outcome_of, stage
from staged_calls import Ending

from service.batching.ticket import Priority

ONE_S = [1.0]
HIGH, LOW = Priority.HIGH, Priority.LOW


def test_a_ticket_wakes_an_idle_runner_while_another_model_is_being_closed():
    """Who waits for the end of the other model must not take the wake-up for itself."""
    with stage([ONE_S, ONE_S], threads=2) as scene:
        scene.submit(0)
        scene.settle()
        scene.close_model(0)
        scene.wait_for_sleepers(2)
        scene.submit(1)
        scene.settle()
        assert len(scene.blocked()) == 2
        scene.end()


def test_a_model_whose_last_tickets_nobody_waits_for_is_closed_at_once():
    """Not only when the time for closing it is over."""
    with stage([[1.0, 1.0]], threads=1, max_batch=2, max_delay_s=100) as scene:
        (gone,) = scene.submit(0)  # waits for a second one
        scene.wait_for_sleepers(1)
        scene.cancel(gone)
        scene.close_model(0)
        scene.settle()
        assert scene.batchers[0].closed
        scene.end()


def test_a_model_closed_without_the_time_for_it_leaves_nobody_waiting():
    """What runs is answered still; what waited is told at once that it won't be."""
    with stage([ONE_S, ONE_S], threads=1) as scene:
        (runs,) = scene.submit(0)
        scene.settle()
        (waits,), (other,) = scene.submit(0), scene.submit(1)
        scene.give_up_model(0)
        scene.settle()
        assert outcome_of(waits) == "ModelUnavailableError"
        scene.blocked()[0].end(Ending.ANSWER)
        scene.settle()
        assert outcome_of(runs) == f"answer {runs.value}"
        scene.blocked()[0].end(Ending.ANSWER)
        scene.settle()
        assert outcome_of(other) == f"answer {other.value}"
        scene.end()


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_who_is_passed_over_lends_its_place_to_nobody(how, decode):
    """The first in one line has gone; the next there is less urgent than another model's image.

    The order (priority, deadline) is that of the images which are really run.
    """
    with stage([ONE_S, ONE_S], threads=1) as scene:
        scene.submit(0)
        scene.settle()
        (gone,) = scene.submit(0, time_s=5, decode=decode)
        scene.submit(0, priority=LOW, decode=decode)
        (urgent,) = scene.submit(1, time_s=100)
        if how == "late":
            scene.advance(6)
        if how == "cancelled" or decode:  # as a request does at its deadline
            scene.cancel(gone)
        scene.blocked()[0].end(Ending.ANSWER)
        scene.settle()
        assert [call.values for call in scene.blocked()] == [[urgent.value]]
        scene.end()


def test_low_priority_moves_up_while_it_waits_to_be_decoded_too():
    """Or a stream of images of high priority would keep it from its first stretch for good."""
    with stage([ONE_S], threads=1) as scene:
        scene.submit(0)
        scene.settle()
        (low,) = scene.submit(0, time_s=20, priority=LOW, decode=True)
        scene.submit(0, time_s=100, decode=True)
        scene.advance(11)
        scene.blocked()[0].end(Ending.ANSWER)
        scene.settle()
        assert [call.values for call in scene.blocked()] == [[low.value]]
        scene.end()


def test_an_incomplete_batch_that_waits_for_more_holds_up_no_full_one():
    """It lets decoding pass, which may complete it; a more urgent batch comes before that."""
    with stage([[1.0, 1.0], [1.0, 1.0]], threads=1, max_batch=2) as scene:
        scene.submit(0)
        scene.settle()
        scene.submit(0, time_s=50)
        full = scene.submit(1, count=2, time_s=60)
        scene.submit(0, time_s=100, decode=True)
        scene.blocked()[0].end(Ending.ANSWER)
        scene.settle()
        assert [call.values for call in scene.blocked()] == [[entry.value for entry in full]]
        scene.end()


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("model", [0, 1])
def test_a_stream_of_nearer_deadlines_starves_nobody(model, priority, decode):
    """Neither an image of the same model nor one of another, whatever its priority.

    A second of work comes each second, all of it of high priority and due in 8 s, so that the
    thread never has to look further; the one image has 40 s, and is answered within them.
    """
    with stage([ONE_S, ONE_S], threads=1) as scene:
        scene.submit(0, count=3, time_s=8, decode=decode)
        (one,) = scene.submit(model, time_s=40, priority=priority, decode=decode)
        for _ in range(39):
            scene.submit(0, time_s=8, decode=decode)
            scene.settle()
            while (work := scene.blocked()[0]).is_decode:  # takes no time here
                work.end(Ending.ANSWER)
                scene.settle()
            scene.advance(1)
            work.end(Ending.ANSWER)
            scene.settle()
        assert outcome_of(one) == f"answer {one.value}"
        assert scene.blocked(), "the stream was never served to its end"
        scene.end()


def test_a_rare_image_waits_for_no_more_than_a_few_batches_of_a_busy_model():
    """Decodes of others may complete its batch for ever; after a while it runs as it is."""
    times = [1.0] * 4
    with stage([times, times], threads=1, max_batch=4) as scene:
        scene.submit(0, count=6, time_s=30, decode=True)
        (rare,) = scene.submit(1, time_s=30)
        batches = 0
        while not rare.future.done():
            scene.settle()
            work = scene.blocked()[0]
            if work.is_decode:
                scene.advance(0.25)
                scene.submit(0, time_s=30, decode=True)  # the stream never ends
            else:
                batches += 1
                scene.advance(1)
                scene.submit(0, count=3, time_s=30, decode=True)
            work.end(Ending.ANSWER)
            scene.settle()
        assert outcome_of(rare) == f"answer {rare.value}"
        assert batches <= 5
        scene.end()


def test_who_closes_a_model_hears_that_the_last_of_its_tickets_has_gone():
    """All threads that could run them are busy with another model, and look for nothing."""
    with stage([ONE_S, ONE_S], threads=2, max_batch=1, runners=1) as scene:
        scene.submit(1)
        scene.settle()
        (gone,) = scene.submit(0, time_s=100)  # the limit is reached
        scene.close_model(0)
        scene.wait_for_sleepers(2)  # the other thread, and who closes
        scene.cancel(gone)
        scene.settle()
        assert scene.batchers[0].closed
        scene.end()
