"""Golden cases: pixels that never change, and a model that is held to its answers."""

from __future__ import annotations

import base64
import hashlib
import math

import numpy as np
import pytest
from color_model import ALLOWED, color_contract, reference
from engines import FakeEngine, answered
from images import encode, photo

from service.contract import Faster, GoldenPattern, GoldenPhoto
from service.engine.providers import CPU, CUDA, Provider
from service.errors import RequestError
from service.golden import PHOTO_DRIFT, check_golden, golden_pattern, golden_pixels, pixels_digest
from service.preprocess.decode import DecodePolicy, decode

SIDE = 8


class ColorEngine(FakeEngine):
    """Answers as the color model does, with what a test adds to it."""

    def __init__(
        self, *, provider: Provider = CPU, off: float = 0.0, rounds_to: Faster | None = None
    ) -> None:
        self.provider = provider
        self.rounds_to = rounds_to
        self.off = off
        self.batches: list[np.ndarray] = []

    def run(self, pixels, outputs):
        self.batches.append(pixels)
        return answered(np.array([reference(image) + self.off for image in pixels], np.float32))


def golden_photo(**changes) -> GoldenPhoto:
    data = encode(photo(60, 40), "JPEG")
    pixels = decode(data, color_contract().preprocessing, DecodePolicy(10_000, 0)).pixels
    fields = {
        "data_base64": base64.b64encode(data).decode(),
        "pixels_sha256": pixels_digest(pixels),
        "probabilities": tuple(reference(pixels)),
    }
    return GoldenPhoto(**(fields | changes))


# Pinned: model files carry answers to these very pixels, so no release may change one of them.
@pytest.mark.parametrize(
    ("seed", "side", "digest"),
    [
        (0, 1, "3667ee4a37a702b7a7468f69fcf622ffca604a0d832481989e663a91587e3a48"),
        (1, 64, "573b2b2ee48567b6bbb817b0cc27c27f859bf379b0129e99850ba50ead82acd4"),
        (2, 64, "f998b6ea327df3a3867801073c662177a5e43fccde53fe86a60c0f9e43143c7c"),
        (4, 64, "f45ae3a38e1cda93528dc91ebf5e407834c99299afbc62996e64c4398ebde954"),
        (5, 224, "8de312ede24cd468d1eacb739c6846dbf2d3d2719c5c04e714837a6de9332917"),
        (123456, 32, "79903c97f76e30ded8e7f56b3c7329b1b91d407f5a7ec501c593df3f99aa83ca"),
    ],
)
def test_the_pattern_of_a_seed_and_side_never_changes(seed, side, digest):
    pixels = golden_pattern(seed, side)
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest


def test_patterns_differ_by_seed_and_show_a_network_something():
    patterns = [golden_pattern(seed, 64) for seed in range(6)]
    assert len({pixels_digest(pattern) for pattern in patterns}) == 6
    assert all(pattern.std() > 20 for pattern in patterns)


def test_the_digest_is_of_the_pixels_in_row_order():
    """Whatever their layout in memory."""
    pixels = golden_pattern(1, 16)
    turned = np.asfortranarray(pixels)
    assert pixels_digest(turned) == pixels_digest(pixels)
    assert pixels_digest(pixels) == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_a_photo_gives_the_pixels_of_the_export_and_says_so():
    contract = color_contract()
    pixels, same = golden_pixels(golden_photo(), contract)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert same
    assert golden_pixels(golden_photo(pixels_sha256="0" * 64), contract)[1] is False


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_a_model_that_agrees_passes_at_every_batch_size(batch):
    """Each case runs, in batches that are full."""
    contract = color_contract()
    cases = (*contract.golden, golden_photo())
    engine = ColorEngine()
    report = check_golden(engine, color_contract(golden=cases), batch)
    assert report.failures == report.warnings == ()
    assert report.max_abs_diff < 1e-6
    assert all(len(images) == batch for images in engine.batches)
    ran = {pixels_digest(image) for images in engine.batches for image in images}
    assert ran == {pixels_digest(golden_pixels(case, contract)[0]) for case in cases}


def test_what_rounds_to_a_faster_precision_is_held_to_what_the_file_says_of_that():
    contract = color_contract(allowed={"tf32": ALLOWED})
    within = ColorEngine(provider=CUDA, rounds_to="tf32", off=ALLOWED.tolerance * 0.9)
    beyond = ColorEngine(provider=CUDA, rounds_to="tf32", off=ALLOWED.tolerance * 1.1)
    assert check_golden(within, contract, 1).failures == ()
    assert check_golden(beyond, contract, 1).failures
    assert check_golden(within, color_contract(), 1).failures
    assert check_golden(within, color_contract(allowed={"bf16": ALLOWED}), 1).failures


@pytest.mark.parametrize(("provider", "tolerance"), [(CPU, 1e-4), (CUDA, 1e-3)])
def test_the_tolerance_is_that_of_the_provider_in_use(provider, tolerance):
    contract = color_contract()
    within = check_golden(ColorEngine(provider=provider, off=tolerance * 0.9), contract, 1)
    beyond = check_golden(ColorEngine(provider=provider, off=tolerance * 1.1), contract, 1)
    assert within.failures == ()
    assert len(beyond.failures) == 2
    assert "golden pattern 1 differs by" in beyond.failures[0]
    assert beyond.max_abs_diff == pytest.approx(tolerance * 1.1, rel=1e-2)


def test_no_number_is_no_agreement():
    """NaN compares as neither more nor less."""
    report = check_golden(ColorEngine(off=float("nan")), color_contract(), 1)
    assert len(report.failures) == 2
    assert math.isnan(report.max_abs_diff)


def test_a_failure_is_told_once_however_often_its_case_ran():
    report = check_golden(ColorEngine(off=0.5), color_contract(), batch=16)
    assert len(report.failures) == 2


def test_a_photo_that_decodes_to_other_pixels_is_a_warning_while_its_answer_is_near():
    """Another release of a JPEG decoder may round differently, which is no reason to stop."""
    contract = color_contract(golden=(golden_photo(pixels_sha256="0" * 64),))
    report = check_golden(ColorEngine(off=PHOTO_DRIFT * 0.9), contract, 1)
    assert report.failures == ()
    assert len(report.warnings) == 1
    assert "Pillow" in report.warnings[0]


def test_a_photo_that_decodes_to_other_pixels_and_another_answer_is_a_failure():
    """A wrong resize or colour order moves an answer by far more, and is named as the cause."""
    contract = color_contract(golden=(golden_photo(pixels_sha256="0" * 64),))
    (failure,) = check_golden(ColorEngine(off=PHOTO_DRIFT * 1.1), contract, 1).failures
    assert "golden photo differs" in failure
    assert "decoding or resizing" in failure


def test_a_photo_that_decodes_to_the_same_pixels_is_held_to_the_tolerance():
    contract = color_contract(golden=(golden_photo(),))
    assert check_golden(ColorEngine(off=0.01), contract, 1).failures


def test_an_engine_of_too_few_answers_is_not_taken_for_one_that_agrees():
    class Short(ColorEngine):
        def run(self, pixels, outputs):
            return super().run(pixels[:-1], outputs)

    with pytest.raises(ValueError, match="argument"):
        check_golden(Short(), color_contract(), 4)


def test_a_photo_that_is_no_image_is_told():
    data = base64.b64encode(b"no image").decode()
    contract = color_contract(golden=(golden_photo(data_base64=data),))
    with pytest.raises(RequestError, match="accepted image format"):
        check_golden(ColorEngine(), contract, 1)


def test_a_case_without_its_kinds_fields_is_no_case():
    with pytest.raises(ValueError, match="pixels_sha256"):
        GoldenPhoto.model_validate({"data_base64": "", "probabilities": [1, 0, 0]})
    assert GoldenPattern(seed=1, probabilities=(1, 0)).kind == "pattern"
