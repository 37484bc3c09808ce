"""Engines on the CPU, whichever library computes: any batch, on any thread, several at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from color_model import WEIGHT, color_contract, reference, write_color_model

from service.contract import METADATA_KEY
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine
from service.engine.providers import CPU, OPENVINO, Provider
from service.golden import golden_pattern

ON_CPU = (
    pytest.param(CPU, id="cpu"),
    pytest.param(OPENVINO, id="openvino", marks=pytest.mark.openvino),
)


@pytest.fixture(params=ON_CPU)
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param


@pytest.fixture
def engine(provider: Provider, tmp_path: Path) -> Engine:
    path = write_color_model(tmp_path / "color.onnx", extra_outputs=True)
    return load_engine(path, provider=provider.name, intra_op_threads=1)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_it_gives_each_image_of_a_batch_its_own_probabilities(engine, batch):
    images = [golden_pattern(seed, 8) for seed in range(batch)]
    answers = probabilities(engine, images)
    assert answers.dtype == np.float32
    assert answers.shape == (batch, 3)
    assert np.abs(answers - [reference(image) for image in images]).max() < 1e-5


def test_a_view_of_pixels_is_read_as_the_image_that_it_shows(engine):
    """Mirrored, and of bytes that can't be written to."""
    image = np.frombuffer(golden_pattern(1, 8).tobytes(), np.uint8).reshape(8, 8, 3)[:, :, ::-1]
    (answer,) = probabilities(engine, [image])
    assert np.abs(answer - reference(image)).max() < 1e-5


def test_it_says_what_the_file_says_of_itself(engine, provider):
    contract = color_contract(optional_outputs=("embedding", "features", "classifier_weight"))
    assert engine.provider is provider
    assert engine.classes == 3
    assert engine.metadata[METADATA_KEY] == contract.model_dump_json()


@pytest.mark.parametrize("count", [1, 3])
def test_the_outputs_that_are_asked_for_are_given_and_no_others(engine, count):
    pixels = [golden_pattern(seed, 8) for seed in range(count)]
    answers = engine.run(pixels, ("embedding", "classifier_weight"))
    assert {name: answer.shape for name, answer in answers.items()} == {
        "embedding": (count, 3),
        "classifier_weight": (3, 3),
    }
    np.testing.assert_array_equal(answers["classifier_weight"], WEIGHT)
    with pytest.raises(Exception, match="logits2"):
        engine.run(pixels, ("logits2",))


def test_answers_are_not_written_over_by_the_next_batch(engine):
    first = probabilities(engine, [golden_pattern(1, 8)])
    before = first.copy()
    probabilities(engine, [golden_pattern(2, 8)])
    np.testing.assert_array_equal(first, before)


def test_threads_may_run_batches_at_once(engine):
    images = [golden_pattern(seed, 8) for seed in range(8)]

    def work(image: np.ndarray) -> list[np.ndarray]:
        return [probabilities(engine, [image])[0] for _ in range(20)]

    with ThreadPoolExecutor(len(images)) as threads:
        for image, answers in zip(images, threads.map(work, images), strict=True):
            assert np.abs(answers - reference(image)).max() < 1e-5


def test_a_closed_engine_runs_nothing(engine):
    engine.close()
    engine.close()
    with pytest.raises(AttributeError):
        probabilities(engine, [golden_pattern(1, 8)])
