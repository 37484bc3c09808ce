"""Medians over the rounds, and the Markdown tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from servers import OURS

from service.bench.limits import ONE_THREAD
from service.bench.text_report import number, table

MODEL_ALONE, DECODE_AND_MODEL = "model alone", "decode + model"
"""What is measured without a server."""

_QUIET_CORES = 0.1
_LIMIT = ("images_per_s", "least", "most")

FIGURES = (
    "per_s", "p50_ms", "p99_ms", "errors", "cpu_cores", "others_cores", "cpu_ms", "rss_mib",
    "pss_mib",
)  # fmt: skip
"""What is known of one load: right answers a second, and so on; `cpu_ms` is of one answer."""


def figures_of(
    run: dict[str, Any], memory: dict[str, int], others_cores: float
) -> dict[str, float | None]:
    """Return the figures of one load from the benchmark's report of it, and the memory after it.

    `others_cores` is how much of the machine neither the server nor the generator used meanwhile.
    """
    latency, cpu_s = run["latency_ms"] or {}, run["server"]["cpu_s"]
    answers = run["throughput_per_s"] * run["seconds"]
    return {
        "per_s": run["throughput_per_s"],
        "p50_ms": latency.get("p50"),
        "p99_ms": latency.get("p99"),
        "errors": sum(run["errors"].values()),
        "cpu_cores": run["server"]["cpu_cores"],
        "others_cores": max(others_cores, 0.0),
        "cpu_ms": cpu_s * 1000 / answers if answers and cpu_s is not None else None,
        "rss_mib": memory["rss"] / 2**20,
        "pss_mib": memory["pss"] / 2**20,
    }


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Return medians by clients and server, with the least and the most answers a second.

    `times` is how many times our answers a second those of the other are exceeded by, as the median
    of the rounds' own ratios: both were measured within minutes of each other.
    """
    summary: dict[str, Any] = {}
    for clients in result["clients"]:
        by_server: dict[str, Any] = {}
        for name in result["servers"]:
            loads = _loads(result, name, clients)
            if not loads:
                continue
            medians = {figure: _median(load[figure] for load in loads) for figure in FIGURES}
            rates = [load["per_s"] for load in loads]
            by_server[name] = medians | {
                "rounds": len(loads),
                "least_per_s": min(rates),
                "most_per_s": max(rates),
                "times": _times(result, name, clients),
            }
        summary[str(clients)] = by_server
    return summary


def summarise_limits(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the best layout without a server, by kind: that of the highest median over the rounds.

    The highest of each round would be that of the luckiest layout, and so would be that of a layout
    that was measured in few of them. Beside it stands the plainest way of all, where it was
    measured: one loop on one thread.
    """
    rates: dict[str, dict[str, list[float]]] = {}
    for each in result["rounds"]:
        for kind, layouts in each.get("limits", {}).items():
            for layout, rate in layouts.items():
                rates.setdefault(kind, {}).setdefault(layout, []).append(rate)
    found = {}
    for kind, layouts in rates.items():
        measured = max(map(len, layouts.values()))
        medians = {
            layout: statistics.median(rates)
            for layout, rates in layouts.items()
            if 2 * len(rates) > measured
        }
        chosen = {kind: max(medians, key=medians.__getitem__)}
        if plain := [layout for layout in medians if layout.startswith(ONE_THREAD)]:
            chosen[f"{kind}, the plainest way"] = max(plain, key=medians.__getitem__)
        for title, layout in chosen.items():
            found[title] = {
                "layout": layout, "images_per_s": medians[layout],
                "least": min(layouts[layout]), "most": max(layouts[layout]),
            }  # fmt: skip
    return found


def render(result: dict[str, Any]) -> str:
    """Return the tables, one for each number of clients, and what was not measured."""
    machine, summary = result["machine"], result["summary"]
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores; {result['model_file']}; "
        f"{result['images']['count']} images; batches up to {result['max_batch']}; "
        f"medians of {len(result['rounds'])} rounds of {result['duration']:g} s"
    ]
    if result["interrupted"]:
        parts.append("Interrupted: this is what was measured until then.")
    for clients, by_server in summary.items():
        header = [
            f"{clients} client{'s' if clients != '1' else ''}", "req/s", "least-most", "p50 ms",
            "p99 ms", "errors", "CPU ms/req", "cores", "others", "PSS MiB", "RSS MiB", f"{OURS} x",
        ]  # fmt: skip
        rows = [_row(_titled(result, name), figures) for name, figures in by_server.items()]
        parts.append(table(header, rows) if rows else f"{clients} clients: nothing was measured")
    if result["limits"]:
        rows = [
            [f"{kind}: {best['layout']}", *(number(best[key]) for key in _LIMIT)]
            for kind, best in result["limits"].items()
        ]
        parts.append(table(["without a server", "images/s", "least", "most"], rows))
    if most := max((f["others_cores"] for s in summary.values() for f in s.values()), default=0.0):
        parts.append(_disturbed(most))
    if precisions := _precisions(result):
        rows = [[_titled(result, name), precision] for name, precision in precisions.items()]
        parts.append(table(["server", "computed in"], rows))
    parts += [f"{name}: {reason}" for name, reason in result["problems"].items()]
    return "\n\n".join(parts) + "\n"


def _precisions(result: dict[str, Any]) -> dict[str, str]:
    """Return the precision that each server computed in, in the last round that measured it."""
    return {
        name: entry["computed_in"]
        for each in result["rounds"]
        for name, entry in each["servers"].items()
        if "computed_in" in entry
    }


def _disturbed(most: float) -> str:
    """Say what the figures are worth; the shares of the others are in the table."""
    if most < _QUIET_CORES:
        return f"Other programs used {number(most)} cores at most."
    return (
        f"Other programs used up to {number(most)} cores meanwhile: these figures are of a machine "
        "that was not quiet."
    )


def _titled(result: dict[str, Any], name: str) -> str:
    versions = result["servers"][name]["versions"]
    return f"{name} {versions[result['servers'][name]['package']]}"


def _row(title: str, figures: dict[str, Any]) -> list[str]:
    errors = figures["errors"]
    return [
        title,
        number(figures["per_s"]),
        f"{number(figures['least_per_s'])}-{number(figures['most_per_s'])}",
        number(figures["p50_ms"]),
        number(figures["p99_ms"]),
        f"{errors:g}" if errors else "none",
        number(figures["cpu_ms"]),
        number(figures["cpu_cores"]),
        number(figures["others_cores"]),
        *(f"{figures[name]:.0f}" for name in ("pss_mib", "rss_mib")),
        number(figures["times"]),
    ]


def _loads(result: dict[str, Any], name: str, clients: int) -> list[dict[str, Any]]:
    return [load for r in result["rounds"] if (load := _load(r, name, clients)) is not None]


def _load(round_: dict[str, Any], name: str, clients: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (
        round_["servers"].get(name, {}).get("loads", {}).get(str(clients))
    )
    return found


def _times(result: dict[str, Any], name: str, clients: int) -> float | None:
    ratios = []
    for each in result["rounds"]:
        ours, theirs = _load(each, OURS, clients), _load(each, name, clients)
        if ours is not None and theirs is not None and theirs["per_s"]:
            ratios.append(ours["per_s"] / theirs["per_s"])
    return statistics.median(ratios) if ratios else None


def _median(values: Iterable[float | None]) -> float | None:
    known: Sequence[float] = [value for value in values if value is not None]
    return statistics.median(known) if known else None
