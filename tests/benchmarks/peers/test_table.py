"""Medians over rounds, and what the tables say."""

from __future__ import annotations

import table


def load(per_s: float, errors: int = 0, others: float = 0.05) -> dict:
    run = {
        "throughput_per_s": per_s, "seconds": 2.0, "latency_ms": {"p50": 1.5, "p99": 9.0},
        "errors": {"timeout": errors} if errors else {},
        "server": {"cpu_s": per_s * 2.0 * 0.004, "cpu_cores": 1.0},
    }  # fmt: skip
    return table.figures_of(run, {"rss": 3 * 2**20, "pss": 2 * 2**20}, others)


def result(*rounds: dict[str, float | None], **more: object) -> dict:
    """Rounds of one load each, of so many answers a second by server; None: it did not start."""
    found = {
        "machine": {"cpu": "CPU", "cores": 2},
        "model_file": "m.onnx", "images": {"count": 3}, "max_batch": 8, "duration": 2.0,
        "clients": [4], "interrupted": False, "problems": {},
        "servers": {
            name: {"package": name, "versions": {name: "1.2"}} for name in ("resnet-serve", "other")
        },
        "rounds": [
            {
                "servers": {
                    name: {"loads": {"4": load(rate)} if rate is not None else {}}
                    for name, rate in each.items()
                }
            }
            for each in rounds
        ],
    } | more  # fmt: skip
    found["summary"] = table.summarise(found)
    found["limits"] = table.summarise_limits(found)
    return found


def test_medians_are_over_the_rounds():
    found = result(
        {"resnet-serve": 100, "other": 50}, {"resnet-serve": 300, "other": 60},
        {"resnet-serve": 200, "other": 40},
    )["summary"]["4"]  # fmt: skip
    assert found["resnet-serve"]["per_s"] == 200
    assert found["other"]["per_s"] == 50
    assert (found["other"]["least_per_s"], found["other"]["most_per_s"]) == (40, 60)
    assert found["other"]["rounds"] == 3


def test_a_ratio_is_the_median_of_the_rounds_own():
    """A round in which the whole machine was slow counts as any other."""
    found = result(
        {"resnet-serve": 100, "other": 50}, {"resnet-serve": 10, "other": 2},
        {"resnet-serve": 90, "other": 30},
    )["summary"]["4"]  # fmt: skip
    assert found["other"]["times"] == 3
    assert found["resnet-serve"]["times"] == 1


def test_a_round_without_a_server_does_not_count_for_it():
    found = result({"resnet-serve": 100, "other": None}, {"resnet-serve": 80, "other": 40})
    assert found["summary"]["4"]["other"]["rounds"] == 1
    assert found["summary"]["4"]["other"]["times"] == 2
    assert "other" not in result({"resnet-serve": 100, "other": None})["summary"]["4"]


def test_cpu_time_is_that_of_one_right_answer():
    assert load(500)["cpu_ms"] == 4.0
    assert load(0)["cpu_ms"] is None


def test_the_table_names_servers_versions_and_problems():
    text = table.render(
        result({"resnet-serve": 100, "other": 50}, problems={"third": "is not installed"})
    )
    assert "| other 1.2 " in text
    assert "third: is not installed" in text
    assert "Interrupted" not in text
    assert "Interrupted" in table.render(result({"resnet-serve": 1}, interrupted=True))
    assert "nothing was measured" in table.render(result({}))


def test_a_machine_that_was_not_quiet_is_told():
    assert "Other programs used 0.05 cores at most" in table.render(result({"resnet-serve": 1}))
    found = result({"resnet-serve": 1})
    found["rounds"][0]["servers"]["resnet-serve"]["loads"]["4"] = load(1, others=0.7)
    found["summary"] = table.summarise(found)
    assert "0.70 cores meanwhile" in table.render(found)


def test_the_best_layout_without_a_server_is_the_best_of_the_medians():
    """Not the one that was lucky once."""
    found = result({})
    found["rounds"] = [
        {"servers": {}, "limits": {"model alone": {"steady": 100, "lucky": rate}}}
        for rate in (50, 60, 300)
    ]
    found["rounds"][0]["limits"]["model alone"]["measured once"] = 300
    limits = table.summarise_limits(found)
    assert limits == {
        "model alone": {"layout": "steady", "images_per_s": 100, "least": 100, "most": 100}
    }


def test_the_plainest_way_stands_beside_the_best():
    """With the better of its options."""
    found = result({})
    layouts = {"one loop on one thread, a": 5, "one loop on one thread, b": 6, "many": 10}
    found["rounds"] = [{"servers": {}, "limits": {"decode + model": layouts}}]
    limits = table.summarise_limits(found)
    assert limits["decode + model"]["layout"] == "many"
    assert limits["decode + model, the plainest way"]["layout"] == "one loop on one thread, b"
    assert limits["decode + model, the plainest way"]["images_per_s"] == 6
