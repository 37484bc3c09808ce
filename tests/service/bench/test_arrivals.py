"""Schedules of open loops: seeded, of the stated mean and shape."""

from __future__ import annotations

import numpy as np
import pytest

from service.bench.arrivals import burst, poisson, read_trace
from service.bench.errors import TraceFileError


def test_poisson_arrivals_are_of_the_rate_and_independent():
    """Gaps of a Poisson process are exponential: their deviation is their mean."""
    times = poisson(200, 100, seed=1)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert (gaps >= 0).all()
    assert 0 <= times[0] <= times[-1] < 100


def test_the_same_seed_gives_the_same_arrivals():
    assert np.array_equal(poisson(50, 10, seed=3), poisson(50, 10, seed=3))
    assert not np.array_equal(poisson(50, 10, seed=3), poisson(50, 10, seed=4))
    assert np.array_equal(burst(50, 10, seed=3), burst(50, 10, seed=3))


@pytest.mark.parametrize("seconds", [200.0, 202.5])
def test_bursts_have_three_times_the_mean_for_a_second_of_every_five(seconds):
    times = burst(100, seconds, seed=2)
    assert times[-1] < seconds
    whole = times[times < 200]
    in_burst = whole % 5 < 1
    assert len(whole) == pytest.approx(100 * 200, rel=0.03)
    assert in_burst.sum() == pytest.approx(300 * 40, rel=0.03)
    assert (~in_burst).sum() == pytest.approx(50 * 160, rel=0.03)


def test_a_rate_below_one_a_run_may_give_no_arrival():
    assert len(poisson(0.001, 1, seed=0)) == 0


def test_a_trace_is_one_time_a_line(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("# seconds\n0\n\n0.25\n 0.25 \n1e1\n")
    assert read_trace(path).tolist() == [0, 0.25, 0.25, 10]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\nsoon\n", "line 2: 'soon' is not a time"),
        ("-1\n", "line 1: '-1' is not a time"),
        ("nan\n", "line 1: 'nan' is not a time"),
        ("2\n1\n", "line 2: 1 comes after 2"),
        ("# nothing\n", "has no arrival times"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(TraceFileError, match=said):
        read_trace(path)


def test_a_trace_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TraceFileError, match="No such file"):
        read_trace(tmp_path / "none.txt")
