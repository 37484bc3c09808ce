"""The table of providers: one is added by a module and a row, and nobody else knows names."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from color_model import color_contract, write_color_model
from structlog.testing import capture_logs

from service.engine import providers
from service.engine.base import ProviderOpener
from service.engine.cpu import CpuOpener
from service.engine.onnx import OnnxOpener, load_engine
from service.engine.providers import CPU, CUDA, EngineOptions, Provider
from service.errors import ModelFileError, ProviderError, SessionFailedError
from service.golden import check_golden, tolerance_in_force

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_color_model(tmp_path / "color.onnx")


@pytest.mark.parametrize("provider", providers.PROVIDERS, ids=lambda provider: provider.name)
def test_every_row_names_what_opens_files_on_it(provider: Provider):
    assert isinstance(provider.make_opener(EngineOptions()), ProviderOpener)
    assert provider.title
    assert len([one for one in providers.PROVIDERS if one.name == provider.name]) == 1


def test_the_last_row_is_the_cpu_which_is_always_there():
    """`auto` ends there."""
    assert providers.PROVIDERS[-1] is CPU
    assert CPU.problem() is None


def test_a_name_of_no_provider_is_told_those_that_there_are(model: Path):
    with pytest.raises(
        LookupError, match="no provider 'tpu'; there are: auto, cpu, cuda, openvino"
    ):
        load_engine(model, provider="tpu")


# A provider that a row adds


class EdgeOpener(CpuOpener):
    """Stands for a new module's: it computes on the CPU, and says that it does not."""

    fails: Exception | None = None

    def open(self, path, *, intra_op_threads, exact=False):
        if self.fails is not None:
            raise self.fails
        engine = super().open(path, intra_op_threads=intra_op_threads)
        engine.provider = EDGE
        return engine


EDGE = replace(
    CPU,
    name="edge",
    title="Edge",
    tolerance_key="edge",
    runtime_name="EdgeExecutionProvider",
    opener=f"{__name__}:EdgeOpener",
    missing="this ONNX Runtime has no Edge",
)


@pytest.fixture
def edge(monkeypatch) -> type[EdgeOpener]:
    """Adds it to the table, before the CPU, and to what ONNX Runtime was built with."""
    monkeypatch.setattr(providers, "PROVIDERS", (CUDA, EDGE, CPU))
    built_with = ["EdgeExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_with)
    monkeypatch.setattr(EdgeOpener, "fails", None)
    return EdgeOpener


@pytest.mark.parametrize("asked", ["auto", "edge"])
def test_a_row_makes_a_provider_that_can_be_asked_for_and_that_auto_finds(model, edge, asked):
    opener = OnnxOpener(asked)
    assert opener.expected() is EDGE
    assert opener.open(model, intra_op_threads=1).provider is EDGE
    assert providers.provider_names() == ("auto", "cpu", "cuda", "edge")
    assert (opener.devices(), opener.trouble(1)) == ([], {})


def test_a_file_may_be_opened_while_another_thread_looks_for_trouble(model, edge, monkeypatch):
    """As when a model is installed during a probe."""
    opener = OnnxOpener("edge")
    opener.open(model, intra_op_threads=1)

    def trouble(self, stuck_after_s):
        opener.open(model, intra_op_threads=1, provider="cpu")
        return {"edge": "stuck"}

    monkeypatch.setattr(edge, "trouble", trouble)
    assert opener.trouble(1) == {"edge": "stuck"}


@pytest.mark.parametrize(
    "error", [ProviderError("no Edge"), SessionFailedError("no memory of Edge")]
)
def test_auto_goes_on_to_the_next_row_where_one_fails_and_says_so(model, edge, monkeypatch, error):
    monkeypatch.setattr(edge, "fails", error)
    with capture_logs() as logs:
        assert load_engine(model, provider="auto").provider is CPU
    assert [(log["event"], log["detail"]) for log in logs] == [("serving_on_cpu", str(error))]
    with pytest.raises(ProviderError, match=str(error)):
        load_engine(model, provider="edge")


def test_a_failure_is_told_as_it_is_where_a_model_is_opened_again(model, edge, monkeypatch):
    """Who opens it again acts by the kind of it."""
    monkeypatch.setattr(edge, "fails", SessionFailedError("no memory"))
    with pytest.raises(SessionFailedError):
        OnnxOpener("auto").open(model, intra_op_threads=1, provider="edge")


def test_a_broken_file_is_blamed_on_no_provider(model, edge, monkeypatch):
    monkeypatch.setattr(edge, "fails", ModelFileError("broken"))
    with pytest.raises(ModelFileError, match="broken"):
        load_engine(model, provider="auto")


def test_a_provider_that_this_runtime_lacks_says_what_to_do(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert EDGE.problem() == "provider edge was asked for, but this ONNX Runtime has no Edge"
    found = replace(EDGE, runtime_name="CPUExecutionProvider", find_problem=lambda: "unplugged")
    assert found.problem() == "unplugged"


def test_a_session_that_fell_to_the_cpu_is_not_taken(model):
    EDGE.attest(model, ["EdgeExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"ONNX Runtime has Edge, but fell back to the CPU$"):
        EDGE.attest(model, ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("tolerances", "limit"),
    [({"cpu": {"fp32": 0.01}}, 0.01), ({"cpu": {"fp32": 0.01}, "edge": {"fp32": 0.3}}, 0.3)],
)
def test_golden_cases_are_held_to_its_tolerance_or_else_to_the_cpus(model, edge, tolerances, limit):
    engine = load_engine(model, provider="edge")
    contract = color_contract(tolerances=tolerances)
    assert tolerance_in_force(engine, contract) == limit
    assert check_golden(engine, contract, 1).tolerance == limit


ADDED = """
import sys
from dataclasses import replace
from service.engine import providers
from service.engine.cpu import CpuOpener

class EdgeOpener(CpuOpener):
    def open(self, path, *, intra_op_threads, exact=False):
        engine = super().open(path, intra_op_threads=intra_op_threads)
        engine.provider = EDGE
        return engine

EDGE = replace(providers.CPU, name="edge", title="Edge", opener="__main__:EdgeOpener",
               padded=True, own_device=True, max_batch=4)
providers.PROVIDERS = (EDGE, *providers.PROVIDERS)
"""
"""What a new module and its row would do."""

SERVED = """
import json, threading
from service.engine.onnx import OnnxOpener
from service.metrics import Metrics
from service.models.loader import load_repository
from service.settings import load_settings

settings, _ = load_settings({"models": sys.argv[1], "provider": "edge", "cache_dir": "none"}, {})
repository = load_repository(settings, Metrics())
repository.warm_up(threading.Event())
(model,) = repository
print(json.dumps([model.state, model.engine.provider.name, model.max_batch,
                  repository.parallelism.parallelism.runners]))
repository.close(10)
"""

HELP = """
from model_export.cli import main as export
from service.cli import main as serve
for program, command in ((serve, "serve"), (export, "evaluate")):
    try:
        program([command, "--help"])
    except SystemExit:
        pass
"""


def run_with_the_row(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ADDED + program, *map(str, arguments)],
        capture_output=True, text=True, timeout=90, check=True, cwd=ROOT,
        env={"PATH": "", "ORT_DISABLE_TELEMETRY": "1", "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout


def test_the_service_serves_on_a_provider_that_a_row_added(model: Path):
    """Settings, batch sizes and parallelism follow from the record."""
    *_log, last = run_with_the_row(SERVED, model).splitlines()
    assert json.loads(last) == ["ready", "edge", 4, 2]


def test_both_programs_take_the_name_of_a_provider_that_a_row_added():
    shown = run_with_the_row(HELP)
    assert "--provider {auto,cpu,cuda,edge,openvino}" in shown
    assert "auto|cpu|cuda|edge|openvino" in shown


# Nobody else compares a provider's name

NAMES = {name for one in providers.PROVIDERS for name in (one.name, one.runtime_name)}

OTHER_MEANINGS = {
    "model_export/training": "PyTorch's devices",
    "service/cpus.py": "controllers of cgroups",
}
"""Where such a string is no provider's name."""


def comparisons(tree: ast.AST) -> Iterator[int]:
    """The lines on which something is compared with, looked up by or matched with a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            compared = [node.value]
        else:
            continue
        inner = [part for one in compared for part in ast.walk(one)]
        if any(isinstance(part, ast.Constant) and part.value in NAMES for part in inner):
            yield node.lineno


def sources() -> Iterator[Path]:
    for package in ("service", "model_export", "benchmarks", "docker", "scripts"):
        for folder, folders, files in os.walk(ROOT / package):  # Path.walk is not in Python 3.11
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from sorted(Path(folder, name) for name in files if name.endswith(".py"))


def test_nothing_outside_the_engine_compares_a_providers_name():
    found = [
        f"{name}:{line}"
        for path in sources()
        if not (name := path.relative_to(ROOT).as_posix()).startswith("service/engine/")
        and not name.startswith(tuple(OTHER_MEANINGS))
        for line in comparisons(ast.parse(path.read_text("utf-8")))
    ]
    assert found == [], "a field of `service.engine.providers.Provider` says it"


@pytest.mark.parametrize(
    "source",
    [
        'engine.provider == "cuda"',
        '"cpu" != name',
        'name in ("cuda", "openvino")',
        'session.get_providers()[0] == "CUDAExecutionProvider"',
        'match name:\n    case "cpu":\n        pass',
    ],
)
def test_a_comparison_with_a_providers_name_is_noticed(source: str):
    assert list(comparisons(ast.parse(source)))
