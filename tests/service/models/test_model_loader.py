"""A model file is opened as the settings ask, or refused in a line that says what to do."""

from __future__ import annotations

from functools import partial

import pytest
from color_model import ALLOWED, write_color_model
from engines import FakeEngine, FakeOpener

from service.engine.onnx import load_engine
from service.engine.providers import CPU, CUDA
from service.errors import ModelFileError
from service.metrics import Metrics
from service.models.files import ModelFile
from service.models.model_loader import ModelLoader
from service.settings import Settings
from service.tuning.cache import ProfileCache


def open_with_tf32(folder, *, provider=CUDA, rounds_to=None, **contract):
    path = write_color_model(folder / "color.onnx", **contract)

    def opened(*_, **__):
        engine = FakeEngine()
        engine.provider, engine.rounds_to = provider, rounds_to
        engine.metadata = load_engine(path, provider="cpu").metadata
        return engine

    loader = ModelLoader(Settings(tf32=True), Metrics(), FakeOpener(opened), ProfileCache(None))
    return loader.open(ModelFile("color", 1, path))


def test_tf32_is_refused_for_a_file_that_does_not_allow_it(tmp_path):
    with pytest.raises(ModelFileError) as caught:
        open_with_tf32(tmp_path)
    assert "resnet-export allow color.onnx --precision tf32 --images DIR" in str(caught.value)


@pytest.mark.parametrize(
    "how",
    [
        partial(open_with_tf32, rounds_to="tf32", allowed={"tf32": ALLOWED}),
        partial(open_with_tf32, provider=CPU),
        partial(open_with_tf32, precision="fp16"),
        partial(open_with_tf32, precision="int8"),
    ],
    ids=["allowed", "on a CPU", "fp16", "int8"],
)
def test_tf32_is_no_matter_where_it_is_allowed_or_changes_nothing(tmp_path, how):
    how(tmp_path)
