"""Who is let in is answered in time, whoever comes later: decoding and inference, simulated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from simulated_server import Request, simulate
from stage import Clock, simulated_time

from service.batching.costs import Work
from service.batching.ticket import Priority

HIGH, LOW = Priority.HIGH, Priority.LOW
TINY, PHOTO = Work("jpeg", 64 * 64, 2_000), Work("jpeg", 4_000_000, 1_000_000)
HUGE = Work("png", 50_000_000, 403_000)
BATCHES_DO_NOT_PAY = [0.01 * size for size in range(1, 9)]

requests = st.lists(
    st.builds(
        Request,
        gap_s=st.one_of(st.just(0.0), st.floats(0, 0.5)),
        time_s=st.one_of(st.floats(0.05, 3), st.floats(0.05, 86_400)),
        works=st.lists(st.sampled_from([TINY, TINY, PHOTO, HUGE]), min_size=1, max_size=4).map(
            tuple
        ),
    ),
    min_size=1,
    max_size=60,
)


@given(those=requests, threads=st.integers(1, 4))
def test_every_promise_is_kept_where_images_take_what_they_are_expected_to(those, threads):
    clock = Clock()
    with simulated_time(clock):
        outcomes = simulate(clock, those, [BATCHES_DO_NOT_PAY], threads)
    assert [outcome for outcome in outcomes if outcome.was == "late" and not outcome.tried] == []
