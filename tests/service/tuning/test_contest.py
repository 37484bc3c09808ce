"""What computes a file on the CPU: ONNX Runtime, unless another was measured to beat it clearly."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from color_model import ALLOWED, write_color_model
from engines import FakeEngine
from openvino_cpu import cpu_with
from structlog.testing import capture_logs

from service.contract import PROBABILITIES, parse_contract
from service.engine import openvino_library
from service.engine.base import Engine, Outputs, Pixels
from service.engine.onnx import OnnxOpener, load_engine
from service.engine.providers import CPU, OPENVINO, EngineOptions
from service.errors import ModelFileError, ProviderError
from service.settings import Settings
from service.tuning import autotune as autotune_module
from service.tuning.cache import ProfileCache
from service.tuning.contest import Won, fastest
from service.tuning.parallelism import Parallelism, Trial

pytestmark = pytest.mark.openvino


class Computed(FakeEngine):
    """The colour model's answers, as if by a provider that may round."""

    def __init__(self, inner: Engine, contest: Contest, name: str) -> None:
        self._inner, self._off, self._breaks = inner, contest.off, contest.breaks
        self.metadata, self.classes = inner.metadata, inner.classes
        self.closed = False
        if name == OPENVINO.name:
            self.provider, self.rounds_to = OPENVINO, "bf16"

    def run(self, pixels: Pixels, outputs: Any) -> Outputs:
        if self._breaks is not None and self.provider is OPENVINO:
            raise self._breaks
        answers = self._inner.run(pixels, outputs)
        off = self._off if self.provider is OPENVINO else 0
        return {PROBABILITIES: answers[PROBABILITIES] + off}

    def close(self) -> None:
        self.closed = True


@dataclass
class Contest(OnnxOpener):
    """Opens engines of known speed; `rates` are images a second of one runner for each CPU."""

    rates: Mapping[str, float]
    off: float = 0.0
    fails: Exception | None = None
    breaks: Exception | None = None
    measured: list[tuple[str, list[Parallelism]]] = field(default_factory=list)
    opened: list[Computed] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("auto", EngineOptions(precision="auto"))

    def open(self, path, *, intra_op_threads, provider=None, exact=False):
        name = provider or CPU.name
        if name == OPENVINO.name and self.fails:
            raise self.fails
        assert all(engine.closed for engine in self.opened), "two are open"
        inner = load_engine(path, provider="cpu", intra_op_threads=1)
        self.opened.append(Computed(inner, self, name))
        return self.opened[-1]

    def measure(self, options, engines, image, *, max_batch):
        name = engines.with_threads(1).provider.name
        self.measured.append((name, list(options)))
        rate = self.rates[name]
        return [Trial(one, rate / (2 if one.runners == 1 else 1), 1 / rate) for one in options]


@pytest.fixture
def contest(monkeypatch) -> Iterator[Callable[..., Contest]]:
    """Makes an opener by the rates of the CPU's provider and of OpenVINO, on two CPUs."""

    def make(cpu: float, openvino: float, **more: Any) -> Contest:
        opener = Contest({"cpu": cpu, "openvino": openvino}, **more)
        monkeypatch.setattr(autotune_module, "measure", opener.measure)
        return opener

    monkeypatch.setattr(autotune_module, "cpu_count", lambda: 2)
    with cpu_with("FP32", "BF16", "INT8"):
        yield make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_color_model(tmp_path / "color.onnx", allowed={"bf16": ALLOWED})


def winner(path: Path, opener: Contest, cache: ProfileCache | None = None, **settings) -> Won:
    return fastest(
        path, opener, Settings.model_validate(settings), models=1, cache=cache or ProfileCache(None)
    )


def test_what_beats_the_cpus_own_provider_clearly_is_taken(model, contest):
    opener = contest(cpu=100, openvino=250)
    won = winner(model, opener)
    assert (won.engine.provider, won.engine.rounds_to) == (OPENVINO, "bf16")
    assert won.faster_by == 2.5
    assert won.parallelism.parallelism == Parallelism(2, 1)
    assert won.why == "openvino gives 250 images/s, the CPU's own provider gives 100 images/s"
    assert [name for name, _ in opener.measured] == ["cpu", "openvino"]


@pytest.mark.parametrize("openvino", [50, 100, 109])
def test_what_is_not_clearly_faster_is_not_taken(model, contest, openvino):
    opener = contest(cpu=100, openvino=openvino)
    won = winner(model, opener)
    assert won.engine.provider is CPU
    assert won.faster_by is None
    assert f"openvino gives {openvino} images/s" in won.why
    assert [engine for engine in opener.opened if not engine.closed] == [won.engine]


def test_for_latency_a_lone_image_decides(model, contest):
    won = winner(model, contest(cpu=100, openvino=200), optimize_for="latency")
    assert won.engine.provider is OPENVINO
    assert won.why.startswith("openvino answers a lone image in 5 ms, ")


def test_both_are_known_at_the_next_start(model, contest, tmp_path):
    cache = ProfileCache(tmp_path / "cache")
    opener = contest(cpu=100, openvino=250)
    assert winner(model, opener, cache).engine.provider is OPENVINO
    opener.opened[-1].close()
    again = winner(model, opener, cache)
    assert (again.engine.provider, again.faster_by) == (OPENVINO, 2.5)
    assert len(opener.measured) == 2, "it was measured again"


@pytest.mark.parametrize("given", [{"runners": 2}, {"runners": 2, "intra_op_threads": 1}])
def test_they_are_compared_also_where_the_parallelism_is_given(model, contest, given):
    opener = contest(cpu=100, openvino=250)
    won = winner(model, opener, **given)
    assert (won.engine.provider, won.faster_by) == (OPENVINO, 2.5)
    assert (won.parallelism.source, won.parallelism.parallelism) == ("settings", Parallelism(2, 1))
    assert won.parallelism.why.startswith("set by --runners")


@pytest.mark.parametrize(
    ("contract", "asked"),
    [
        ({}, "auto"),
        ({"precision": "fp16"}, "auto"),
        ({"allowed": {"tf32": ALLOWED}}, "auto"),
        ({"allowed": {"bf16": ALLOWED}}, "exact"),
    ],
    ids=["allows nothing", "is fp16", "allows TF32", "is to be exact"],
)
def test_a_file_that_it_would_compute_no_differently_is_not_measured_with_it(
    tmp_path, contest, contract, asked
):
    model = write_color_model(tmp_path / "color.onnx", **contract)
    opener = contest(cpu=100, openvino=250)
    opener._options = EngineOptions(precision=asked)
    won = winner(model, opener)
    assert (won.engine.provider, won.faster_by, won.why) == (CPU, None, "")
    assert [name for name, _ in opener.measured] == ["cpu"]


def test_integers_are_measured_with_it_also_if_it_is_to_be_exact(tmp_path, contest):
    model = write_color_model(tmp_path / "color.onnx", precision="int8")
    opener = contest(cpu=100, openvino=250)
    opener._options = EngineOptions(precision="exact")
    assert winner(model, opener).engine.provider is OPENVINO


def test_a_cpu_without_the_precision_is_not_measured_with_it(model, contest):
    opener = contest(cpu=100, openvino=250)
    with cpu_with("FP32"):
        assert winner(model, opener).engine.provider is CPU
    assert [name for name, _ in opener.measured] == ["cpu"]


@pytest.mark.parametrize("asked", ["cpu", "openvino"])
def test_where_a_provider_is_asked_for_nothing_competes(model, contest, asked):
    opener = contest(cpu=100, openvino=250)
    opener.provider = asked
    contract = load_engine(model, provider="cpu").metadata
    assert opener.rivals(parse_contract(contract, file="")) == []


def test_one_whose_answers_disagree_is_told_of_and_not_taken(model, contest):
    opener = contest(cpu=100, openvino=250, off=ALLOWED.tolerance * 2)
    with capture_logs() as logs:
        won = winner(model, opener)
    assert won.engine.provider is CPU
    assert won.faster_by is None
    (told,) = [log for log in logs if log["event"] == "openvino_not_taken"]
    assert "golden pattern 1 differs by" in told["detail"]
    assert [engine for engine in opener.opened if not engine.closed] == [won.engine]


def test_one_that_does_not_load_the_file_is_told_of_and_not_taken(model, contest):
    opener = contest(cpu=100, openvino=250, fails=ProviderError("no such operator"))
    with capture_logs() as logs:
        assert winner(model, opener).engine.provider is CPU
    assert ("openvino_not_taken", "no such operator") in [
        (log["event"], log.get("detail")) for log in logs
    ]


def test_one_that_fails_at_the_golden_cases_is_told_of_and_not_taken(model, contest, tmp_path):
    """Measured by an earlier start, so that these are the first batches that it runs."""
    cache = ProfileCache(tmp_path / "cache")
    winner(model, contest(cpu=100, openvino=250), cache).engine.close()
    opener = contest(cpu=100, openvino=250, breaks=RuntimeError("Exception from x.cpp:1:\nno"))
    with capture_logs() as logs:
        won = winner(model, opener, cache)
    assert won.engine.provider is CPU
    (told,) = [log for log in logs if log["event"] == "openvino_not_taken"]
    assert told["detail"].startswith("Exception from x.cpp:1:")
    assert len(told["detail"].splitlines()) == 1
    assert [engine for engine in opener.opened if not engine.closed] == [won.engine]


def test_a_broken_installation_is_told_of_in_a_line_and_not_used(model, contest, monkeypatch):
    opener = contest(cpu=100, openvino=250)

    def broken():
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(openvino_library, "core", broken)
    openvino_library.problem.cache_clear()
    try:
        with capture_logs() as logs:
            assert winner(model, opener).engine.provider is CPU
    finally:
        openvino_library.problem.cache_clear()
    assert [(log["event"], log["detail"]) for log in logs if log["log_level"] == "warning"] == [
        (
            "serving_without_openvino",
            "OpenVINO does not work here: libtbb.so.12: cannot open shared object file",
        )
    ]


def test_without_the_extra_nothing_is_said_or_imported(model, contest, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name)
    )
    opener = contest(cpu=100, openvino=250)
    with capture_logs() as logs:
        assert winner(model, opener).engine.provider is CPU
    assert logs == []


def test_a_broken_file_is_refused_with_everything_closed(tmp_path, contest):
    path = write_color_model(tmp_path / "color.onnx", allowed={"bf16": ALLOWED})
    path.write_bytes(path.read_bytes().replace(b'"schema_version":2', b'"schema_version":9'))
    opener = contest(cpu=100, openvino=250)
    with pytest.raises(ModelFileError):
        winner(path, opener)
    assert all(engine.closed for engine in opener.opened)
