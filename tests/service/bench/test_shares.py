"""A run is dealt out whole: nothing is lost, nothing is sent twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.errors import OptionError
from service.bench.options import BenchOptions
from service.bench.shares import deal, process_count, schedule, split

counts = st.integers(1, 64)


@given(st.integers(0, 10_000), counts)
def test_parts_add_up_and_differ_by_one_at_most(total, parts):
    found = split(total, parts)
    assert len(found) == parts
    assert sum(found) == total
    assert max(found) - min(found) <= 1


@given(counts, st.integers(0, 200), st.sampled_from(["poisson", "burst"]), st.integers(0, 5))
def test_the_processes_arrivals_together_are_the_whole_schedule(processes, rate, mode, seed):
    options = BenchOptions(mode=mode, rate=rate or 1, seed=seed, connections=64, duration=3)
    whole, _ = schedule(options, options.rate)
    shares = deal(options, whole, processes)
    assert sum(share.connections for share in shares) == 64
    assert min(share.connections for share in shares) >= 1
    arrivals = [share.arrivals for share in shares if share.arrivals is not None]
    assert whole is not None
    assert np.array_equal(np.sort(np.concatenate(arrivals)), whole)
    assert all((np.diff(own) >= 0).all() for own in arrivals)


@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, min(n, 64)))))
def test_the_processes_clients_together_are_all_clients(clients_and_processes):
    clients, processes = clients_and_processes
    shares = deal(BenchOptions(clients=clients), None, processes)
    assert sum(share.connections for share in shares) == clients
    assert all(share.connections >= 1 and share.arrivals is None for share in shares)


def test_each_process_has_an_order_of_images_of_its_own_and_keeps_it():
    seeds = [share.seed for share in deal(BenchOptions(seed=5), None, 4)]
    assert seeds == [share.seed for share in deal(BenchOptions(seed=5), None, 4)]
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(
    ("cores", "processes"), [(1, 1), (2, 1), (3, 1), (4, 1), (8, 2), (16, 4), (32, 8), (256, 8)]
)
def test_a_quarter_of_the_cores_sends(cores, processes):
    assert process_count(BenchOptions(clients=100), cores) == processes


def test_no_process_is_without_a_client():
    assert process_count(BenchOptions(clients=2), 64) == 2
    assert process_count(BenchOptions(mode="poisson", rate=1, connections=3), 64) == 3


def test_what_is_asked_for_counts():
    assert process_count(BenchOptions(processes=3), 256) == 3


@pytest.mark.parametrize("times", ["0\n1.9\n", "1\n12\n13\n"])
def test_a_trace_of_which_nothing_would_be_measured_is_refused(tmp_path, times):
    """It ends before the warm-up does, or has its gap just there."""
    trace = tmp_path / "trace.txt"
    trace.write_text(times)
    options = BenchOptions(mode="trace", trace=trace, warm_up=2, duration=10)
    with pytest.raises(OptionError, match=r"--trace .* nothing arrives .*--warm-up at 2 s .* 12 s"):
        schedule(options, None)
