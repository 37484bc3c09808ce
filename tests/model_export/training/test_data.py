"""What is trained on follows from the seed, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import preprocessing
from photos import photo_folder

from model_export.errors import ImagesError
from model_export.training.data import (
    Augmentation,
    EpochOrder,
    Example,
    TrainingImages,
    ValidationImages,
    check_images,
    find_classes,
    random_box,
    split,
)
from service.preprocess.decode import DecodePolicy, decode


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", images=10)


def test_classes_are_folders_in_order_of_their_names(photos: Path):
    (photos / ".cache").mkdir()
    (photos / "notes.txt").write_text("hello")
    classes, examples = find_classes(photos)
    assert classes == ["blue", "green", "red"]
    assert [example.path.parent.name for example in examples[::10]] == classes
    assert [example.index for example in examples[::10]] == [0, 1, 2]


@given(st.floats(0.01, 0.99), st.integers(0, 5), st.integers(2, 12))
def test_some_of_each_class_are_held_out_and_none_is_in_both(fraction, seed, count):
    examples = [Example(Path(f"{i}/{n}.jpg"), i) for i in range(3) for n in range(count + i)]
    training, validation = split(examples, fraction, seed)
    assert sorted([*training, *validation], key=str) == sorted(examples, key=str)
    for index in range(3):
        held = sum(example.index == index for example in validation)
        size = count + index
        assert held == min(max(1, round(size * fraction)), size - 1)
    assert split(examples, fraction, seed) == (training, validation)


def test_another_seed_holds_out_others(photos: Path):
    _, examples = find_classes(photos)
    assert split(examples, 0.5, 0)[1] != split(examples, 0.5, 1)[1]


@pytest.mark.parametrize(
    ("made", "message"),
    [([], "at least two"), (["a"], "at least two"), (["a", "b"], "a: has no images")],
)
def test_too_little_is_told(tmp_path: Path, made: list[str], message: str):
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(ImagesError, match=message):
        find_classes(tmp_path)
    with pytest.raises(ImagesError, match="no such folder"):
        find_classes(tmp_path / "missing")


def test_hidden_copies_are_no_examples(photos: Path):
    """They would be on both sides of the split."""
    hidden = photos / "red" / ".checkpoints"
    hidden.mkdir()
    (hidden / "0-checkpoint.jpg").write_bytes((photos / "red" / "0.jpg").read_bytes())
    (photos / "red" / "._0.jpg").write_bytes(b"resource fork")
    assert len(find_classes(photos)[1]) == 30


def test_parts_of_a_data_set_are_no_classes(tmp_path: Path):
    for part in ("train", "val"):
        photo_folder(tmp_path / part, images=2)
    with pytest.raises(ImagesError, match="train, val are parts of a data set, not classes"):
        find_classes(tmp_path)
    assert find_classes(tmp_path / "train")[0] == ["blue", "green", "red"]


def test_all_images_that_are_broken_are_named(photos: Path):
    _, examples = find_classes(photos)
    check_images(examples)
    for number in (0, 1, 3, 4, 5, 7):
        (photos / "red" / f"{number}.jpg").write_bytes(b"hello")
    with pytest.raises(ImagesError, match=r"red/0\.jpg: .*red/1.*red/3.*red/4.*red/5.*and 1 more"):
        check_images(examples)


def test_an_image_that_is_gone_is_named(photos: Path):
    """A folder can change meanwhile."""
    _, examples = find_classes(photos)
    (photos / "blue" / "0.jpg").unlink()
    with pytest.raises(ImagesError, match=r"blue/0\.jpg: No such file"):
        check_images(examples)


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.floats(0.05, 0.95), st.integers(0, 1000)
)  # fmt: skip
def test_random_crops_lie_in_the_image_and_keep_enough(width, height, min_area, seed):
    """Whatever its shape; a narrow image gives a part of an allowed ratio."""
    left, top, right, bottom = random_box(width, height, min_area, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    ratio = (right - left) / (bottom - top)
    assert 3 / 4 - 1e-6 <= ratio <= 4 / 3 + 1e-6
    if 3 / 4 <= width / height <= 4 / 3:
        assert (right - left) * (bottom - top) >= min_area * width * height * (1 - 1e-6)


def test_an_image_is_another_in_each_epoch_and_the_same_when_asked_again(photos: Path):
    _, examples = find_classes(photos)
    images = TrainingImages(examples, preprocessing(32), Augmentation(), seed=3)
    first, index = images[0, 7, 24]
    assert (first.shape, first.dtype, index) == ((3, 24, 24), torch.uint8, 0)
    assert torch.equal(images[0, 7, 24][0], first)
    assert not torch.equal(images[1, 7, 24][0], first)
    other = TrainingImages(examples, preprocessing(32), Augmentation(), seed=4)
    assert not torch.equal(other[0, 7, 24][0], first)


def test_held_out_images_are_what_the_service_sees(photos: Path):
    _, examples = find_classes(photos)
    pixels, index = ValidationImages(examples, preprocessing(32))[25]
    want = decode(examples[25].path.read_bytes(), preprocessing(32), DecodePolicy(10**6, 0)).pixels
    assert index == 2
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), want)


def test_broken_images_are_told_by_name(photos: Path):
    (photos / "red" / "0.jpg").write_bytes(b"hello")
    _, examples = find_classes(photos)
    index = next(i for i, e in enumerate(examples) if e.path.name == "0.jpg" and e.index == 2)
    with pytest.raises(ImagesError, match=r"red/0\.jpg"):
        TrainingImages(examples, preprocessing(32), Augmentation(), 0)[0, index, 32]
    with pytest.raises(ImagesError, match=r"red/0\.jpg"):
        ValidationImages(examples, preprocessing(32))[index]


def test_each_epoch_has_all_images_in_its_own_order():
    order = EpochOrder(50, seed=1)
    order.side = 32
    first = list(order)
    assert sorted(first) == [(0, index, 32) for index in range(50)]
    assert list(order) == first
    order.epoch = 1
    assert [index for _, index, _ in order] != [index for _, index, _ in first]
