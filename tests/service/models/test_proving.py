"""An engine that rounds and disagrees makes room for one that does not, and this is told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from color_model import ALLOWED, write_color_model
from engines import FakeEngine, FakeOpener
from structlog.testing import capture_logs

from service.contract import PROBABILITIES
from service.engine.base import Engine, Outputs, Pixels
from service.engine.onnx import load_engine
from service.engine.providers import OPENVINO
from service.metrics import Metrics
from service.models.loader import load_repository
from service.models.model import ServedModel
from service.models.repository import Repository
from service.settings import Settings


class Rounding(FakeEngine):
    """The colour model's answers, off by something."""

    provider = OPENVINO

    def __init__(self, path: Path, off: float, *, exact: bool) -> None:
        self._inner, self._off = load_engine(path, provider="cpu"), off
        self.metadata, self.classes = self._inner.metadata, 3
        self.rounds_to = None if exact else "bf16"
        self.closed = False

    def run(self, pixels: Pixels, outputs: object) -> Outputs:
        answers = self._inner.run(pixels, (PROBABILITIES,))
        return {PROBABILITIES: answers[PROBABILITIES] + self._off}

    def close(self) -> None:
        self.closed = True


class Opener(FakeOpener):
    """Opens engines of which those that round are off by `off`, the others by `off_exactly`."""

    def __init__(self, off: float, off_exactly: float = 0.0) -> None:
        super().__init__(lambda *_, **__: None, "openvino")  # type: ignore[arg-type]
        self._off, self._off_exactly = off, off_exactly
        self.opened: list[Rounding] = []

    def open(self, path, *, intra_op_threads, provider=None, exact=False) -> Engine:
        off = self._off_exactly if exact else self._off
        self.opened.append(Rounding(path, off, exact=exact))
        return self.opened[-1]


def served(tmp_path: Path, opener: Opener, metrics: Metrics | None = None) -> Repository:
    path = write_color_model(tmp_path / "color.onnx", allowed={"bf16": ALLOWED})
    settings = Settings(models=path, runners=1, intra_op_threads=1)
    repository = load_repository(settings, metrics or Metrics(), opener=opener)
    for model in repository:
        model.warm_up(threading.Event())
    return repository


def only(repository: Repository) -> ServedModel:
    (model,) = repository
    return model


def test_what_agrees_as_the_file_says_is_served_and_shown(tmp_path):
    metrics = Metrics()
    model = only(served(tmp_path, Opener(ALLOWED.tolerance * 0.9), metrics))
    assert (model.state, model.computed_in) == ("ready", "bf16")
    assert model.agreement == ALLOWED
    shown = metrics.render().decode()
    assert 'computed_in="bf16"' in shown
    assert f'model_agreement{{model="color",version="1"}} {ALLOWED.lower_bound}' in shown


def test_what_disagrees_falls_back_to_the_files_own_precision_and_says_so(tmp_path):
    opener, metrics = Opener(ALLOWED.tolerance * 1.1), Metrics()
    with capture_logs() as logs:
        model = only(served(tmp_path, opener, metrics))
    assert (model.state, model.computed_in, model.agreement) == ("ready", "fp32", None)
    (told,) = [log for log in logs if log["event"] == "precision_not_taken"]
    assert (told["precision"], told["taken"]) == ("bf16", "fp32")
    assert "golden pattern 1 differs by" in told["detail"]
    assert [engine.closed for engine in opener.opened[-2:]] == [True, False]
    assert model.engine is opener.opened[-1]
    shown = metrics.render().decode()
    assert 'computed_in="fp32"' in shown
    assert 'computed_in="bf16"' not in shown
    assert model.latency_ms(), "its own times are measured"


def test_it_stays_so_when_it_is_loaded_again(tmp_path):
    opener = Opener(ALLOWED.tolerance * 1.1)
    model = only(served(tmp_path, opener))
    model._reopen()
    assert opener.opened[-1].rounds_to is None


@pytest.mark.parametrize("off", [0.0, 0.2])
def test_what_disagrees_also_then_is_not_served(tmp_path, off):
    opener = Opener(0.2, off_exactly=0.2)
    model = only(served(tmp_path, opener))
    assert model.state == "failed"
    assert all(engine.closed for engine in opener.opened)
