"""What a run's figures are said to mean."""

from __future__ import annotations

import pytest

from service.bench.load import CHANGED_LABEL, OK, Sample
from service.bench.summary import Window, summarise
from service.bench.text_report import fact_rows

WINDOW = Window(0.0, 10.0)


def facts(kinds: list[str], processes: int = 1, busiest: float = 0.1) -> dict[str, str]:
    samples = [Sample(1.0, 1.0, 1.1, kind, 200, b"", waited=False) for kind in kinds]
    run = summarise(samples, WINDOW, None) | {
        "mode": "closed", "server": {"cpu_s": None},
        "generator": {"processes": processes, "cpu_s": 12.0, "cpu_cores": 1.2,
                      "busiest_cores": busiest, "silent_processes": 0},
    }  # fmt: skip
    return dict(fact_rows(run, {"deadline_ms": None}))


@pytest.mark.parametrize(
    ("busiest", "limits"),
    [(0.4, False), (0.95, True)],
)
def test_a_generator_limits_when_one_of_its_processes_has_a_whole_core(busiest, limits):
    """Three that use 1.2 cores together have room, unless one of them has none."""
    said = facts([OK], processes=3, busiest=busiest)["generator"]
    assert said.startswith("12.0 CPU s (1.20 cores), 3 processes, ")
    assert said.endswith("may be the bottleneck") == limits


def test_agreement_is_told_where_answers_were_compared():
    said = facts([OK, OK, OK, CHANGED_LABEL])["agreement"]
    assert said == "75.00% have the reference's best label, 1 have another, equally probable one"
    assert "agreement" not in facts(["queue_full"])


def test_however_many_kinds_of_errors_there_are_the_report_stays_short():
    said = facts(["often"] * 3 + [f"kind_{i}" for i in range(1000)])["errors"]
    assert said.startswith("often 3, kind_0 1, ")
    assert said.endswith(", 989 other kinds 989")
    assert len(said) < 200


def test_that_nothing_was_measured_is_said():
    assert facts([])["requests"] == "0 in 10.0 s (0.00/s): nothing was measured"
    assert facts([OK])["requests"] == "1 in 10.0 s (0.10/s)"
