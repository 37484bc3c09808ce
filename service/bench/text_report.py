"""The report as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.bench.facts import INTERRUPTED, report_rows

_LATE_MS = 10
_NEARLY_A_CORE = 0.9
_KINDS = 12  # of errors to list by name; a server may make up any number
_SPREAD = ("p50", "p95", "p99", "max")


def render_text(report: dict[str, Any]) -> str:
    """Return the whole report as text, ending with a newline."""
    parts = ["\n".join(f"{name:10} {value}" for name, value in report_rows(report))]
    if report["interrupted"]:
        parts.append(INTERRUPTED)
    parts += [_run(run, report["options"]) for run in report.get("runs", ())]
    if len(report.get("runs", ())) > 1:
        parts.append(_sweep(report["runs"]))
    if "limits" in report:
        parts.append(_limits(report["limits"]))
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, padded so that it is readable as text too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def number(value: float | None) -> str:
    """Format a number with about three digits; "-" for None."""
    if value is None:
        return "-"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}"


def title_of(run: dict[str, Any], options: dict[str, Any]) -> str:
    """Return a title that describes a run's load."""
    if run["mode"] == "closed":
        title = f"closed loop, {options['clients']} clients"
    elif run["rate"] is None:
        title = f"open loop, trace {options['trace']}"
    else:
        title = f"open loop, {run['mode']}, {run['rate']:g} arrivals/s"
    return f"{title} (interrupted)" if run["interrupted"] else title


def fact_rows(run: dict[str, Any], options: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a run's individual figures as rows of name and text."""
    server = run["server"]
    deadline = options["deadline_ms"]
    nothing = "" if run["requests"] else ": nothing was measured"
    rows = [
        ("requests", f"{run['requests']} in {run['seconds']:.1f} s "
                     f"({number(run['offered_per_s'])}/s){nothing}"),
        ("right answers", f"{run['ok']} ({number(run['throughput_per_s'])}/s)"),
    ]  # fmt: skip
    if run["agreement"] is not None:
        rows.append(("agreement", f"{run['agreement']:.2%} have the reference's best label, "
                     f"{run['changed_labels']} have another, equally probable one"))  # fmt: skip
    if deadline is not None:
        rows.append((f"within {deadline:g} ms", f"{number(run['goodput_per_s'])}/s; "
                     f"{run['past_deadline']} answers were late"))  # fmt: skip
    rows.append(("errors", _kinds(run["errors"])))
    if run["warm_up_errors"]:
        rows.append(("warm-up errors", _kinds(run["warm_up_errors"])))
    if run["refusals"]["count"]:
        sent = run["refusals"]["from_sent_ms"]
        rows.append(("refusals", f"{run['refusals']['count']}, p50 {number(sent['p50'])} ms, "
                     f"p99 {number(sent['p99'])} ms after sending"))  # fmt: skip
    if server["cpu_s"] is not None:
        rows.append(("server", f"{server['cpu_s']:.1f} CPU s ({server['cpu_cores']:.2f} cores), "
                     f"at most {server['rss_peak_bytes'] / 2**20:.0f} MiB resident"))  # fmt: skip
    rows.append(("generator", _generator(run["generator"])))
    if run["mode"] != "closed" and (late := run["lateness_ms"]):
        few = "; --connections may be too low" if late["p99"] > _LATE_MS else ""
        rows.append(("sent late by", f"p50 {number(late['p50'])} ms, p99 {number(late['p99'])} ms; "
                     f"{run['waited_for_connection']} waited for a connection{few}"))  # fmt: skip
    return rows


def _kinds(errors: dict[str, int]) -> str:
    """List errors by kind with their counts, most frequent first."""
    said = [f"{kind} {count}" for kind, count in [*errors.items()][:_KINDS]]
    if others := [*errors.values()][_KINDS:]:
        said.append(f"{len(others)} other kinds {sum(others)}")
    return ", ".join(said) or "none"


def _generator(own: dict[str, Any]) -> str:
    text = f"{own['cpu_s']:.1f} CPU s ({own['cpu_cores']:.2f} cores)"
    if own["processes"] > 1:
        text += f", {own['processes']} processes, busiest {own['busiest_cores']:.2f} cores"
    if silent := own["silent_processes"]:
        text += f"; {silent} more did not answer, and their requests are missing"
    # Each process has one busy thread, so it can't use more than one core.
    return text + (": may be the bottleneck" if own["busiest_cores"] > _NEARLY_A_CORE else "")


def spread_rows(run: dict[str, Any]) -> list[list[str]]:
    """Return rows for latency and stages with p50, p95, p99 and max in milliseconds."""
    named = {"latency": run["latency_ms"], **run["stages_ms"]}
    return [[name, *(number(of[key]) for key in _SPREAD)] for name, of in named.items() if of]


def _run(run: dict[str, Any], options: dict[str, Any]) -> str:
    lines = [title_of(run, options)]
    lines += [f"  {name:14} {value}" for name, value in fact_rows(run, options)]
    sizes = run["server"]["batch_sizes"]
    if sizes:
        total = sum(sizes.values())
        shares = ", ".join(f"{size}: {count / total:.0%}" for size, count in sizes.items())
        lines.append(f"  {'batches':14} {total} ({shares})")
    if rows := spread_rows(run):
        lines.append(table(["ms", *_SPREAD], rows))
    return "\n".join(lines)


def _sweep(runs: Sequence[dict[str, Any]]) -> str:
    rows = []
    for run in runs:
        latency = run["latency_ms"] or {}
        rows.append(
            [f"{run['rate']:g}", *(number(value) for value in (
                run["throughput_per_s"], run["goodput_per_s"],
                latency.get("p50"), latency.get("p99"),
            )), str(sum(run["errors"].values()))]
        )  # fmt: skip
    return table(["arrivals/s", "right/s", "goodput/s", "p50 ms", "p99 ms", "errors"], rows)


def limit_tables(limits: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables of limits, each as title, header and rows."""
    batches = sorted({row["batch"] for row in limits["model"]})
    layouts: dict[tuple[int, int, str], dict[int, float]] = {}
    for row in limits["model"]:
        layout = (row["callers"], row["threads"], row["options"])
        layouts.setdefault(layout, {})[row["batch"]] = row["images_per_s"]
    model = [
        [f"{callers} x {threads}, {options}", *(number(rates.get(batch)) for batch in batches)]
        for (callers, threads, options), rates in layouts.items()
    ]
    pipelines = [
        [
            f"{row['name']}, {row['options']}",
            *(number(row[key]) for key in ("images_per_s", "least", "most")),
        ]
        for row in limits["pipeline"]
    ]
    return [
        (
            "The model alone, images/s by batch size (callers x intra-op threads; session options "
            "of the service, or ONNX Runtime's defaults)",
            ["layout", *(str(batch) for batch in batches)],
            model,
        ),
        (
            "Decode + model in one process without HTTP, images/s",
            ["layout", "median", "least", "most"],
            pipelines,
        ),
    ]


def _limits(limits: dict[str, Any]) -> str:
    parts = [f"{title}:\n{table(header, rows)}" for title, header, rows in limit_tables(limits)]
    best, pipeline = limits["best_model"], limits["best_pipeline"]
    parts.append(
        f"best: model alone {number(best['images_per_s'])} images/s ({best['callers']} callers x "
        f"{best['threads']} threads, {best['options']}, batches of {best['batch']}); "
        f"decode + model {number(pipeline['images_per_s'])} images/s ({pipeline['name']}, "
        f"{pipeline['options']})"
    )
    return "\n\n".join(parts)
