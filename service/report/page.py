"""The page around plots and tables: a self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c2330, #e4e8ef);
  --soft: light-dark(#5b6677, #9aa5b5); --rule: light-dark(#dde2ea, #323b4a);
  --page: light-dark(#fff, #141922); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: .95rem; margin: 0 0 .3rem; }
table { border-collapse: collapse; margin: .6rem 0; }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
.facts td { text-align: left; overflow-wrap: anywhere; }
.facts td:first-child { white-space: nowrap; }
.plots { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); }
svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--soft); }
.grid { stroke: var(--rule); } .line { fill: none; stroke: var(--c); stroke-width: 2; }
.dot, .bar { fill: var(--c); } .key { background: var(--c); display: inline-block; width: .8em;
  height: .8em; border-radius: 2px; margin-right: .4em; }
.legend { margin: 0; color: var(--soft); font-size: .85rem; display: flex; gap: 1.2em; }
.c0 { --c: #2f6fde; } .c1 { --c: #e07b1a; } .c2 { --c: #2a9d6f; } .c3 { --c: #b04fc4; }
.c4 { --c: #d1495b; } .c5 { --c: #6b7280; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page with the given HTML parts; `service.report.svg` makes plots for it."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )
