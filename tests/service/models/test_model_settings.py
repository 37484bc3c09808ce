"""Settings of single models: what they change, which come first, and what is wrong with one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from asgi import during
from color_model import ALLOWED, write_color_model
from images import colored
from openvino_cpu import needs_bf16

from model_export.model_file import read_model, rewrite_contract
from service.contract import MultiLabel
from service.engine.onnx import OnnxOpener
from service.errors import ModelFileError, ModelLoadError, ModelSelectionError, SettingsError
from service.metrics import Metrics
from service.models.files import ModelFile, builtin_file
from service.models.loader import load_repository
from service.models.model_settings import ModelConfig, ModelSettings
from service.models.repository import Repository
from service.settings import Settings

ALL_KEYS = """
[color]
max_batch = 3
max_delay_ms = 2
timeout_ms = 700
provider = "cpu"
precision = "exact"
top_k = 2
threshold = 0.25
thresholds = {c1 = 0.125}
versions = 1
pinned = true
"""


def settings_with(folder: Path, table: str | None = None, **more) -> Settings:
    """Settings for a folder with the colour model; `table` is the content of the file for all."""
    write_color_model(folder / "models" / "color.onnx", multi_label=more.pop("multi_label", None))
    fields = {"models": folder / "models", "provider": "cpu", "intra_op_threads": 1, "runners": 1}
    if table is not None:
        path = folder / "all.toml"
        path.write_text(table)
        fields["model_settings"] = path
    return Settings.model_validate(fields | more)


def loaded(folder: Path, table: str | None = None, **more) -> Repository:
    return load_repository(settings_with(folder, table, **more), Metrics())


def test_every_key_reaches_its_model(tmp_path):
    rule = MultiLabel(threshold=0.75, thresholds={"c0": 0.875})
    repository = loaded(tmp_path, ALL_KEYS, multi_label=rule)
    model = repository.find("color")
    assert (model.max_batch, model.timeout_ms, model.gate._patience_s) == (3, 700, 0.7)
    assert model._settings.max_delay_ms == 2
    assert model._settings.precision == "exact"
    assert model.options == ModelSettings(
        max_batch=3, max_delay_ms=2, timeout_ms=700, provider="cpu", precision="exact", top_k=2,
        threshold=0.25, thresholds={"c1": 0.125}, versions="1", pinned=True,
    )  # fmt: skip
    assert model.contract.multi_label == MultiLabel(threshold=0.25, thresholds={"c1": 0.125})
    assert set(ModelSettings.model_fields) == model.options.model_fields_set, "a key is not tested"


def test_a_threshold_of_single_labels_leaves_the_others_as_the_file_has_them(tmp_path):
    rule = MultiLabel(threshold=0.75, thresholds={"c0": 0.875})
    model = loaded(tmp_path, "[color]\nthresholds = {c1 = 0}", multi_label=rule).find("color")
    assert model.contract.multi_label == MultiLabel(
        threshold=0.75, thresholds={"c0": 0.875, "c1": 0}
    )


@pytest.mark.parametrize(
    ("table", "rule", "said"),
    [
        ("threshold = 0.5", None, "a threshold, but its labels are not independent"),
        ("thresholds = {c9 = 0.5}", MultiLabel(), "a threshold for c9, which is no id of its"),
    ],
)
def test_thresholds_that_a_model_can_not_have_are_refused(tmp_path, table, rule, said):
    with pytest.raises(ModelFileError, match=said):
        loaded(tmp_path, f"[color]\n{table}", multi_label=rule)


def test_another_model_keeps_the_settings_for_all(tmp_path):
    write_color_model(tmp_path / "models" / "other.onnx")
    table = ALL_KEYS.replace("threshold", "# threshold")
    repository = loaded(tmp_path, table, max_batch=5, default_model="color")
    assert [repository.find(name).max_batch for name in ("color", "other")] == [3, 5]
    assert repository.find("other").timeout_ms == 30_000


def test_flags_come_before_the_file_for_all_and_that_before_the_one_beside_the_model(tmp_path):
    def timeouts(table: str | None, **more) -> tuple[int, int]:
        model = loaded(tmp_path, table, **more).find("color")
        return model.timeout_ms, model.max_batch

    assert timeouts(None, request_timeout_ms=1) == (1, 8)
    (tmp_path / "models").joinpath("color.toml").write_text("timeout_ms = 2\nmax_batch = 2")
    assert timeouts(None, request_timeout_ms=1) == (2, 2)
    table = "[color]\ntimeout_ms = 3"
    assert timeouts(table, request_timeout_ms=1) == (3, 2)
    flags = {"model_timeout_ms": {"color": 4}}
    assert timeouts(table, request_timeout_ms=1, **flags) == (4, 2)


def test_versions_in_a_folder_have_their_settings_beside_the_folder(tmp_path):
    for version in (1, 2):
        write_color_model(tmp_path / "models" / "v" / f"{version}.onnx")
    (tmp_path / "models" / "v.toml").write_text('versions = "1:1,2:1"\ntop_k = 1')
    models = loaded(tmp_path, default_model="v").models
    assert {model.version: models.share(model) for model in models.loaded if model.name == "v"} == {
        1: 0.5,
        2: 0.5,
    }


def test_a_precision_and_a_provider_are_asked_of_one_model_alone(tmp_path):
    """Where nothing else can be asked for, the opener tells what would have been."""
    write_color_model(tmp_path / "models" / "fast.onnx", allowed={"bf16": ALLOWED})
    repository = loaded(tmp_path, '[color]\nprecision = "exact"', default_model="color")
    loader = repository._loader
    opener = loader._opener_for(loader.config.of(ModelFile("color", 1, tmp_path / "color.onnx")))
    assert opener is not loader.opener
    assert isinstance(opener, OnnxOpener)
    assert isinstance(loader.opener, OnnxOpener)
    assert opener._exact
    assert opener._openers is loader.opener._openers, "devices are shared"
    fast = loader.config.of(ModelFile("fast", 1, tmp_path / "fast.onnx"))
    assert loader._opener_for(fast) is loader.opener


KEYS = (
    "max_batch, max_delay_ms, timeout_ms, provider, precision, top_k, threshold, thresholds, "
    "versions, pinned"
)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[color]\nmaxbatch = 1", f"color: there is no key 'maxbatch'; allowed: {KEYS}"),
        ("[color]\nmax_batch = 'x'", "color: max_batch must be a whole number from 0 to 1024, got"),
        ("[color]\nmax_batch = 2.0", "color: max_batch must be a whole number from 0 to 1024, got"),
        ("[color]\ntop_k = 0", "color: top_k must be a whole number of at least 1, got 0"),
        ("[color]\nthreshold = 2.0", "color: threshold must be a number"),
        ("[color]\nthresholds = {c0 = -1.0}", "color: thresholds must be "),
        ("[color]\npinned = 1", "color: pinned must be true or false, got 1"),
        ("[color]\nprovider = 'tpu'", "color: provider must be "),
        ("[color]\nprecision = 'fp8'", "color: precision must be auto or exact, got 'fp8'"),
        (
            "[color]\nversions = '1:'",
            "color: versions must be latest, a version as in 2, or",
        ),
        ("[color]\nversions = true", "color: versions must be text, got True"),
        (
            "[color]\ntop_k = 0\npinned = 1",
            "top_k must be a whole number of at least 1, got 0; p",
        ),
        ("color = 3", f"color: must be a table, with keys {KEYS}"),
        ("[color", "is not valid TOML: "),
        ("x = '\ufffd'".replace("\ufffd", "\udcff"), "is not UTF-8"),
        ("#" * (2**20 + 1), "is larger than 1048576 bytes"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_with_file_and_key(tmp_path, table, said):
    path = tmp_path / "all.toml"
    path.write_bytes(table.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError) as caught:
        ModelConfig(Settings(model_settings=path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("(--model-settings)")
    assert said in message
    assert len(message.splitlines()) == 1


def test_a_file_that_is_not_there_and_a_model_that_is_not_there_stop_the_start(tmp_path):
    with pytest.raises(SettingsError, match="can't be read: No such file"):
        ModelConfig(Settings(model_settings=tmp_path / "none.toml"))
    with pytest.raises(ModelSelectionError, match="--model-settings: there is no model 'colour'"):
        loaded(tmp_path, "[colour]\ntop_k = 1")
    loaded(tmp_path, "[colour]\ntop_k = 1", admin=True)  # it may be loaded later


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("top = 1", "color.toml: there is no key 'top'; allowed: "),
        ("top_k = 4", "its settings have top_k 4, but it has 3 classes"),
        ('precision = "auto"', "precision can't be auto for one model if --precision is exact"),
    ],
)
def test_a_model_whose_settings_are_wrong_is_broken_and_the_others_are_served(
    tmp_path, beside, said
):
    write_color_model(tmp_path / "models" / "other.onnx")
    (tmp_path / "models" / "color.toml").write_text(beside)
    repository = loaded(tmp_path, default_model="other", precision="exact")
    (broken,) = repository.models.broken()
    assert (broken.name, [model.name for model in repository]) == ("color", ["other"])
    assert said in broken.reason
    assert str(tmp_path) not in broken.reason


def test_changed_settings_are_in_force_once_the_model_is_loaded_again(tmp_path):
    settings = settings_with(tmp_path)

    async def work(app, client) -> None:
        async def labels() -> int:
            answer = await client.post("/v1/classify", content=colored("red"))
            return len(answer.json()["results"][0]["labels"])

        control, path = app.state.runtime.control, tmp_path / "models" / "color.toml"
        assert await labels() == 3
        path.write_text("top_k = 1")
        await control.load("color")
        assert await labels() == 1
        path.write_text("top_k = true")
        with pytest.raises(ModelLoadError, match="top_k must be a whole number"):
            await control.load("color")
        assert await labels() == 1
        path.unlink()
        await control.load("color")
        assert await labels() == 3

    assert settings.models is not None
    during(settings.models, work)


def test_a_model_has_the_deadline_of_its_settings(tmp_path):
    settings = settings_with(tmp_path, "[color]\ntimeout_ms = 1")

    async def work(app, client) -> None:
        (model,) = app.state.runtime.repository
        run, go = model.engine.run, threading.Event()

        def waiting(pixels, outputs):
            assert go.wait(60)
            return run(pixels, outputs)

        model.engine.run = waiting
        answer = await client.post("/v1/classify", content=colored("red"))
        go.set()
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert "within 1 ms" in answer.json()["detail"]

    assert settings.models is not None
    during(settings.models, work, model_settings=settings.model_settings)


@needs_bf16
def test_one_model_is_computed_on_its_own_provider_and_in_its_own_precision(tmp_path):
    """Both files allow bfloat16; `exact` does not take it, and `fast` does."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("exact", "fast", "plain"):
        path = models / f"{name}.onnx"
        path.write_bytes(builtin_file().path.read_bytes())
        _, contract = read_model(path)
        rewrite_contract(path, contract.model_copy(update={"allowed": {"bf16": ALLOWED}}))
    (models / "exact.toml").write_text('provider = "openvino"\nprecision = "exact"')
    (models / "fast.toml").write_text('provider = "openvino"')
    settings = Settings(
        models=models, provider="cpu", intra_op_threads=1, runners=1, default_model="plain"
    )
    repository = load_repository(settings, Metrics())
    assert {
        model.name: (model.engine.provider.name, model.computed_in) for model in repository
    } == {
        "exact": ("openvino", "fp32"), "fast": ("openvino", "bf16"), "plain": ("cpu", "fp32"),
    }  # fmt: skip
