"""The report as a self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from service.bench.facts import INTERRUPTED, report_rows
from service.bench.text_report import (
    fact_rows,
    limit_tables,
    spread_rows,
    title_of,
)
from service.report.page import page
from service.report.svg import Line, bar_plot, line_plot


def render_html(report: dict[str, Any]) -> str:
    """Return the report as an HTML page."""
    options, runs = report["options"], report.get("runs", [])
    parts = [
        "<h1>resnet-serve bench</h1>",
        f"<p>{INTERRUPTED}</p>" if report["interrupted"] else "",
        _facts(report_rows(report)),
    ]
    if len(runs) > 1:
        parts.append(_sweep(runs))
    parts += [_run(run, options) for run in runs]
    if "limits" in report:
        parts.append("<h2>Limits without a server</h2>")
        for title, header, rows in limit_tables(report["limits"]):
            parts.append(f"<p>{escape(title)}</p>{_table(header, rows)}")
    return page("resnet-serve bench", parts)


def _run(run: dict[str, Any], options: dict[str, Any]) -> str:
    series, sizes, stages = run["series"], run["server"]["batch_sizes"], run["stages_ms"]
    plots = [
        ("Latency: share of answers within", line_plot(
            [Line("", run["cdf_ms"])], "ms (logarithmic)", "share", log_x=True)),
        ("Answers over time", line_plot(
            [Line("right", [(row["at_s"], row["throughput_per_s"]) for row in series]),
             Line("errors", [(row["at_s"], row["errors_per_s"]) for row in series])],
            "seconds", "per second")),
        ("Latency over time", line_plot(
            [Line("p50", [(row["at_s"], row["p50_ms"]) for row in series]),
             Line("p99", [(row["at_s"], row["p99_ms"]) for row in series])],
            "seconds", "ms")),
    ]  # fmt: skip
    if sizes:
        counts = [("", [float(count) for count in sizes.values()])]
        plots.append(("Batch sizes", bar_plot([*sizes], counts, "images per batch", "batches")))
    if stages:
        keys = ("p50", "p95", "p99")
        parts = [(stage, [spread[key] for key in keys]) for stage, spread in stages.items()]
        # Percentiles of stages don't add up to the total's; the plot shows their relative sizes.
        plots.append(("Time by stage", bar_plot(keys, parts, "of each stage separately", "ms")))
    return (
        f"<h2>{escape(title_of(run, options).capitalize())}</h2>"
        f"{_facts(fact_rows(run, options))}"
        f"{_table(['ms', 'p50', 'p95', 'p99', 'max'], spread_rows(run))}{_plots(plots)}"
    )


def _sweep(runs: Sequence[dict[str, Any]]) -> str:
    def line(name: str, key: str) -> Line:
        return Line(name, [(r["rate"], r["latency_ms"] and r["latency_ms"][key]) for r in runs])

    offered = [(run["rate"], run["rate"]) for run in runs]
    plots = [
        ("Latency against offered rate", line_plot(
            [line("p50", "p50"), line("p99", "p99")], "arrivals per second", "ms")),
        ("Goodput against offered rate", line_plot(
            [Line("goodput", [(run["rate"], run["goodput_per_s"]) for run in runs]),
             Line("offered", offered)], "arrivals per second", "per second")),
    ]  # fmt: skip
    return f"<h2>Sweep of rates</h2>{_plots(plots)}"


def _plots(plots: Sequence[tuple[str, str]]) -> str:
    figures = "".join(f"<div><h3>{escape(title)}</h3>{plot}</div>" for title, plot in plots)
    return f'<div class="plots">{figures}</div>'


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<table class="facts">{body}</table>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
