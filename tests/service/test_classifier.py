"""A model file in this process: the server's answers without a server."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
import structlog
from color_model import color_contract, write_color_model
from images import COLOR_VALUES, colored, encode, photo
from PIL import Image
from results import best

import service
from service import Classifier
from service.client import Client
from service.errors import (
    ModelFileError,
    ModelSelectionError,
    NotAnImageError,
    SettingsError,
    TopKError,
    UnreadableImageError,
)

RED, GREEN = colored("red"), colored("green")


def opened(file: Path) -> Classifier:
    """Return a classifier that measures nothing."""
    return Classifier(file, runners=2, intra_op_threads=1)


@pytest.fixture
def file(model_folder: Path) -> Path:
    return model_folder / "color.onnx"


@pytest.fixture
def classifier(file: Path) -> Iterator[Classifier]:
    with opened(file) as made:
        yield made


def test_one_image_has_its_labels(classifier):
    found = classifier.classify(RED, top_k=2)
    assert (found.best.label, found.model, found.version) == ("red", "color", 1)
    assert (len(found.labels), found.width, found.height) == (2, 20, 12)
    assert classifier.labels == ("red", "green", "blue")
    assert (classifier.name, classifier.computed_in) == ("color", "cpu fp32")


def test_an_image_may_be_a_file_a_picture_or_an_array(classifier, tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(RED)
    array = np.full((9, 7, 3), COLOR_VALUES["red"], np.uint8)
    for image in (path, str(path), Image.fromarray(array), array, bytearray(RED)):
        assert classifier.classify(image).best.label == "red"


def test_many_images_are_answered_in_order_with_errors_in_their_places(classifier, tmp_path):
    images = [RED, b"no image", GREEN, tmp_path / "missing.png", b"", RED] * 100
    wanted = ["red", "not_an_image", "green", "unreadable_image", "empty_image", "red"] * 100
    assert best(classifier.classify_many(images)) == wanted


def test_answers_are_those_of_the_server(classifier, client):
    images = [encode(photo(40 + i, 30, seed=i), "JPEG") for i in range(20)]
    with Client(str(client.base_url)) as asked:
        assert list(classifier.classify_many(images)) == list(asked.classify_many(images))


def test_images_are_taken_as_they_are_needed(classifier):
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield RED

    results = classifier.classify_many(endless())
    assert best([next(results)]) == ["red"]
    results.close()
    assert taken <= 32 * 9 + 1
    assert classifier.classify(GREEN).best.label == "green"


def test_an_error_of_the_source_is_the_callers(classifier):
    def broken() -> Iterator[bytes]:
        yield RED
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(classifier.classify_many(broken()))


def test_a_single_image_raises_its_error(classifier, tmp_path):
    with pytest.raises(NotAnImageError):
        classifier.classify(b"no image")
    with pytest.raises(UnreadableImageError, match="No such file"):
        classifier.classify(tmp_path / "none.png")
    with pytest.raises(TopKError, match="1 to 3"):
        classifier.classify(RED, top_k=4)


def test_it_works_where_an_event_loop_runs_as_in_a_notebook(classifier):
    async def cell() -> str:
        return classifier.classify(RED).best.label

    assert asyncio.run(cell()) == "red"


def test_threads_may_share_it(classifier):
    found: list[list[str]] = []
    threads = [
        threading.Thread(
            target=lambda image: found.append(best(classifier.classify_many([image] * 50))),
            args=(image,),
        )
        for image in (RED, GREEN) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(set, found), key=str) == sorted([{"red"}, {"green"}] * 2, key=str)


def test_a_file_whose_golden_cases_disagree_is_refused(tmp_path):
    contract = color_contract()
    wrong = contract.golden[0].model_copy(update={"probabilities": (0.1, 0.8, 0.1)})
    path = write_color_model(tmp_path / "off.onnx", color_contract(golden=(wrong,)))
    threads = threading.active_count()
    with pytest.raises(ModelFileError, match=r"model off: .*golden"):
        opened(path)
    assert threading.active_count() == threads


def test_mistakes_are_told_in_one_line(tmp_path, model_folder):
    with pytest.raises(ModelSelectionError, match="none"):
        Classifier(tmp_path / "none.onnx")
    with pytest.raises(SettingsError, match="--provider"):
        Classifier(provider="abacus")
    with pytest.raises(SettingsError, match="--runners"):
        Classifier(runners=-1)
    write_color_model(model_folder / "other.onnx", color_contract(name="other"))
    with pytest.raises(ModelFileError, match="color, other"):
        opened(model_folder)


def test_closing_twice_is_once_and_no_thread_is_left(file):
    before = threading.active_count()
    with opened(file) as made:
        made.classify(RED)
    made.close()
    assert threading.active_count() == before


@pytest.fixture
def unconfigured_logs() -> Iterator[None]:
    """Structlog as a program finds it that has not set it up; other tests have."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


def test_closing_it_gives_up_what_is_under_way(file, unconfigured_logs, capfd):
    with opened(file) as made:
        results = made.classify_many([RED] * 2000)
        next(results)
    with pytest.raises(CancelledError):
        list(results)
    with pytest.raises(RuntimeError, match="closed"):
        made.classify(RED)
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_program_that_does_not_close_it_ends():
    code = (
        "from service import Classifier; "
        "made = Classifier(runners=2, intra_op_threads=1); print(made.name)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "slim-resnet50\n"


def test_importing_the_package_imports_nothing_else():
    code = "import sys, service; print([m for m in sys.modules if m.startswith('service.')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="Clasifier"):
        service.Clasifier  # type: ignore[attr-defined] # noqa: B018
