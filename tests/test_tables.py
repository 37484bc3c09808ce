"""The tables of the documentation are the code's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from service import errors
from service.http.routes import OPERATIONS
from service.metrics import Metrics
from service.settings import PREFIX, Settings

DOCS = Path(__file__).parent.parent / "docs"


def setting_rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, (), {}) else f"`{field.default}`"
        flag = "--" + name.replace("_", "-")
        rows.append(f"| `{flag}` | `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return rows


def error_rows() -> list[str]:
    classes = [
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.RequestError) and error is not errors.RequestError
    ]
    classes.sort(key=lambda error: (error.status, error.code))
    return [
        f"| {error.status} | `{error.code}` | {(inspect.getdoc(error) or '').splitlines()[0]} |"
        for error in classes
    ]


def metric_rows() -> list[str]:
    kinds = {"counter": "_total"}
    return [
        f"| `{metric.name}{kinds.get(metric.type, '')}` | {metric.type} | {metric.documentation} |"
        for metric in Metrics().registry.collect()
        if metric.name.startswith("resnet_serve_")
    ]


def route_cells() -> list[str]:
    paths = [re.sub(r"{(\w+)}", lambda name: name[1].upper(), each.path) for each in OPERATIONS]
    return [f"`{each.method} {path}`" for each, path in zip(OPERATIONS, paths, strict=True)]


@pytest.mark.parametrize(
    ("page", "rows"),
    [
        ("settings.md", setting_rows),
        ("api.md", error_rows),
        ("metrics.md", metric_rows),
        ("api.md", route_cells),
    ],
)
def test_a_page_has_every_row_as_the_code_has_it(page, rows):
    text = (DOCS / page).read_text(encoding="utf-8")
    missing = [row for row in rows() if row not in text]
    assert not missing, "\n".join(missing)
