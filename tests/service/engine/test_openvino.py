"""OpenVINO's engine: the precision that was asked for, and no faster one without the file's word.

Where the CPU has bfloat16 this is seen by what is really computed, elsewhere by the hint.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from color_model import ALLOWED, write_color_model
from openvino_cpu import Core, cpu_with, needs_bf16
from structlog.testing import capture_logs

from model_export.model_file import read_model, rewrite_contract
from service.contract import Allowed, parse_contract
from service.engine import openvino, openvino_library
from service.engine.base import Engine
from service.engine.onnx import OnnxOpener, load_engine
from service.engine.providers import CPU, OPENVINO, EngineOptions
from service.errors import ModelFileError, ProviderError
from service.golden import check_golden, tolerance_in_force
from service.metrics import Metrics
from service.models.files import builtin_file
from service.models.loader import load_repository
from service.settings import Settings

pytestmark = pytest.mark.openvino


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_color_model(tmp_path / "color.onnx")


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, whose contract allows bfloat16."""
    return builtin_allowing({"bf16": ALLOWED}, tmp_path_factory.mktemp("models") / "allowing.onnx")


@pytest.fixture(scope="module")
def without_entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, whose contract allows nothing."""
    return builtin_allowing(None, tmp_path_factory.mktemp("models") / "plain.onnx")


def builtin_allowing(allowed: dict[str, Allowed] | None, path: Path) -> Path:
    path.write_bytes(builtin_file().path.read_bytes())
    _, contract = read_model(path)
    rewrite_contract(path, contract.model_copy(update={"allowed": allowed}))
    return path


def opened(path: Path, threads: int = 1, **options) -> Engine:
    return load_engine(
        path, provider="openvino", intra_op_threads=threads, options=EngineOptions(**options)
    )


def worst_difference(engine: Engine) -> float:
    contract = parse_contract(engine.metadata, file="")
    return check_golden(engine, contract, 1).max_abs_diff


@pytest.mark.parametrize(("threads", "streams"), [(1, 4), (3, 2), (4, 1), (0, 1), (9, 1)])
def test_the_cpus_are_shared_by_the_batches_that_are_under_way(
    model, monkeypatch, threads, streams
):
    """ONNX Runtime's runners share the threads that help them; a stream has its own."""
    monkeypatch.setattr(openvino, "cpu_count", lambda: 4)
    given: dict[str, object] = {}

    class Noting(Core):
        def compile_model(self, model, device, config):
            given.update(config, device=device)
            return super().compile_model(model, device, config)

    monkeypatch.setattr(openvino_library, "core", Noting)
    opened(model, threads)
    assert (given["NUM_STREAMS"], given["INFERENCE_NUM_THREADS"]) == (streams, 4)
    assert given["device"] == "CPU"


# Precision


def test_float32_is_computed_as_exactly_as_by_onnx_runtime(without_entry):
    engine = opened(without_entry)
    assert engine.rounds_to is None
    assert engine.attested["layers_rounded"] == 0
    assert worst_difference(engine) < 1e-5


def test_no_file_without_the_entry_is_given_another_hint_than_float32(without_entry):
    for asked in ("auto", "exact"):
        assert OPENVINO.options(EngineOptions(precision=asked), "fp32", None)[
            "INFERENCE_PRECISION_HINT"
        ] == ("f32")
    for precision in ("auto", "exact"):
        assert opened(without_entry, precision=precision).attested["precision_asked"] == "f32"


@pytest.mark.parametrize("precision", ["auto", "exact"])
@pytest.mark.parametrize("provider", ["auto", "cpu", "openvino"])
def test_no_way_to_serve_a_file_without_the_entry_computes_in_bfloat16(
    without_entry, provider, precision
):
    """Its golden cases would differ by more than a thousandth."""
    settings = Settings(models=without_entry, provider=provider, precision=precision)
    with capture_logs() as logs:
        repository = load_repository(settings, Metrics())
        repository.warm_up(threading.Event())
    (model,) = repository
    assert (model.state, model.computed_in) == ("ready", "fp32")
    (ready,) = [log for log in logs if log["event"] == "model_ready"]
    assert ready["golden_max_diff"] < 1e-5
    repository.close(10)


@needs_bf16
def test_a_file_with_the_entry_is_served_in_bfloat16(allowing):
    settings = Settings(models=allowing, provider="openvino")
    with capture_logs() as logs:
        repository = load_repository(settings, Metrics())
        repository.warm_up(threading.Event())
    (model,) = repository
    assert (model.state, model.computed_in) == ("ready", "bf16")
    (ready,) = [log for log in logs if log["event"] == "model_ready"]
    assert 1e-4 < ready["golden_max_diff"] < ALLOWED.tolerance
    repository.close(10)


@needs_bf16
def test_a_file_that_allows_bfloat16_is_computed_in_it_unless_it_is_to_be_exact(allowing):
    engine = opened(allowing, precision="auto")
    assert engine.rounds_to == "bf16"
    assert engine.attested["precision_asked"] == "bf16"
    assert engine.attested["layers_rounded"] > 50
    assert worst_difference(engine) > 1e-4, "it computes in float32"
    contract = parse_contract(engine.metadata, file="")
    assert tolerance_in_force(engine, contract) == ALLOWED.tolerance
    exact = opened(allowing)
    assert exact.rounds_to is None
    assert worst_difference(exact) < 1e-5
    assert tolerance_in_force(exact, contract) == contract.tolerance("openvino")


@needs_bf16
def test_a_file_can_be_opened_exactly_though_others_are_not(allowing):
    opener = OnnxOpener("openvino", EngineOptions(precision="auto"))
    assert opener.open(allowing, intra_op_threads=1).rounds_to == "bf16"
    assert opener.open(allowing, intra_op_threads=1, exact=True).rounds_to is None


def test_on_a_cpu_without_it_bfloat16_is_not_taken(allowing):
    with cpu_with("FP32", "INT8"):
        assert opened(allowing, precision="auto").rounds_to is None
        with pytest.raises(ProviderError, match="OpenVINO does not support bf16 on this mach"):
            opened(allowing, precision="bf16")


@needs_bf16
def test_what_computes_in_another_precision_than_was_asked_for_is_refused(
    monkeypatch, without_entry
):
    """As it does by itself, without a hint."""

    class Unheeding(Core):
        def compile_model(self, model, device, config):
            del config["INFERENCE_PRECISION_HINT"]
            return super().compile_model(model, device, config)

    monkeypatch.setattr(openvino_library, "core", Unheeding)
    with pytest.raises(
        ProviderError, match=r"computes in bf16, although the precision of the file"
    ):
        opened(without_entry)


# What does not work


def test_a_file_of_another_kind_is_refused_as_by_onnx_runtime(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match="ONNX Runtime can't load it"):
        opened(path)


def test_a_file_that_only_openvino_can_not_load_is_no_broken_file(model, monkeypatch):
    class Failing(Core):
        def compile_model(self, model, device, config):
            raise RuntimeError("Exception from src/x.cpp:1:\nno such operator")

    monkeypatch.setattr(openvino_library, "core", Failing)
    with pytest.raises(ProviderError) as caught:
        opened(model)
    assert len(str(caught.value).splitlines()) == 1


def test_auto_does_not_take_it_unmeasured(model):
    assert OnnxOpener("auto").expected() is CPU
    assert load_engine(model).provider is CPU


IMPORT = """
import sys
{before}
from service.engine.providers import OPENVINO
print(OPENVINO.problem())
print("openvino_telemetry.main" in sys.modules)
"""


def problem_in_a_process(before: str = "", **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(before=before)],
        capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": "", "ORT_DISABLE_TELEMETRY": "1"} | environment,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    return done.stdout.splitlines()


def test_its_import_tells_nobody(tmp_path):
    """The package beside it would write an identity into the home folder, and send it."""
    assert problem_in_a_process(HOME=str(tmp_path)) == ["None", "False"]
    assert not list(tmp_path.iterdir())


def test_where_it_is_missing_it_is_said_how_to_install_it():
    found = problem_in_a_process(
        "import importlib.util\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'openvino' else real(name)"
    )
    assert found[0].startswith("provider openvino was asked for, but OpenVINO is not installed")
    assert "[openvino]" in found[0]


def test_where_it_is_broken_its_reason_is_given_in_a_line(tmp_path):
    broken = tmp_path / "openvino"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open')")
    found = problem_in_a_process(f"sys.path.insert(0, {str(tmp_path)!r})")
    assert found == ["OpenVINO does not work here: libtbb.so.12: cannot open", "False"]
