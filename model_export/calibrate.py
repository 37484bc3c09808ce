"""`resnet-export calibrate`: measures with labelled images how far answers can be trusted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.calibration import (
    Answers,
    embedding_of,
    fit_coverage,
    fit_directions,
    fit_temperature,
    reliability,
)
from model_export.describe import describe_calibration
from model_export.errors import ImagesError, OptionsError
from model_export.images import labelled, open_images
from model_export.model_file import read_model, rewrite_metadata
from model_export.options import CalibrateOptions
from model_export.pixels import BATCH, batches
from service.calibration import CALIBRATION_KEY, MOST_BYTES, Calibration, Split
from service.contract import EMBEDDING, PROBABILITIES, ModelContract
from service.engine.base import Engine
from service.engine.onnx import load_engine
from service.engine.providers import EngineOptions

_LEAST = 20
"""Images of each part: with fewer, not even a coverage of 0.95 has a threshold."""


def calibrate_command(options: CalibrateOptions) -> None:
    """Calibrate as the options say, print what was found, and write it into the file.

    Nothing else in the file changes. Raises `OptionsError`, `ImagesError`,
    `service.errors.ModelFileError` or `OSError`; then the file is unchanged.
    """
    _, contract = read_model(options.file)
    if contract.multi_label is not None:
        raise OptionsError(
            f"{options.file}: its labels are independent, and calibration is for files of which "
            "one label is right"
        )
    if options.outside is not None and EMBEDDING not in contract.optional_outputs:
        raise OptionsError(
            f"{options.file}: has no embedding, which --outside needs to tell images apart"
        )
    if options.outside is not None:
        with open_images(options.outside):  # fails now, not after minutes
            pass
    exact = EngineOptions(precision="exact")
    with closing(load_engine(options.file, provider=options.provider, options=exact)) as engine:
        engine.prepare((BATCH,))
        found = _calibration(engine, contract, options)
    text = found.model_dump_json(exclude_none=True)
    if len(text) > MOST_BYTES:
        raise OptionsError(f"{options.file}: its calibration would have {len(text)} bytes")
    rewrite_metadata(options.file, CALIBRATION_KEY, text)
    sys.stdout.write(
        "\n".join([f"{options.file}: calibrated", *describe_calibration(found)]) + "\n"
    )


def _calibration(engine: Engine, contract: ModelContract, options: CalibrateOptions) -> Calibration:
    answers = _labelled_answers(engine, contract, options)
    fits, coverages, tests = _parts(len(answers), options)
    fit, covering, test = answers.part(fits), answers.part(coverages), answers.part(tests)
    temperature = fit_temperature(fit)
    coverage = fit_coverage(covering, test, temperature)
    embedding = None
    if fit.embeddings is not None:
        assert covering.embeddings is not None  # noqa: S101 - of the same answers
        assert test.embeddings is not None  # noqa: S101
        others = None
        if options.outside is not None:
            away = _outside_embeddings(engine, contract, options.outside)
            others = options.outside_set, away
        embedding = embedding_of(
            fit_directions(fit.embeddings), options.kept, covering.embeddings, test.embeddings,
            others,
        )  # fmt: skip
    return Calibration(
        classes=len(contract.labels),
        data_set=options.data_set,
        split=Split(
            seed=options.seed, temperature=len(fit), coverage=len(covering), test=len(test)
        ),
        temperature=temperature,
        before=reliability(test),
        after=reliability(test, temperature),
        coverage=coverage,
        embedding=embedding,
    )


def _parts(count: int, options: CalibrateOptions) -> tuple[NDArray[np.int64], ...]:
    """Draw three parts at random: for the temperature, for coverage (as many), and to test."""
    order = np.random.default_rng(options.seed).permutation(count)
    fitted = round(count * options.fit_share)
    parts = order[: fitted // 2], order[fitted // 2 : fitted], order[fitted:]
    if min(map(len, parts)) < _LEAST:
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ImagesError(
            f"{options.images}: {count} images are too few: its parts would have {sizes} of them, "
            f"and each needs {_LEAST}"
        )
    return parts


def _labelled_answers(
    engine: Engine, contract: ModelContract, options: CalibrateOptions
) -> Answers:
    with open_images(options.images) as images:
        wanted = labelled(images, contract.labels, options.images)
        names = [one.name for one in wanted]
        outputs = _outputs(contract)
        found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in outputs}
        for batch in batches(images, names, contract.preprocessing, "calibrating"):
            for name, values in engine.run([*batch], outputs).items():
                found[name].append(values)
    arrays = {name: np.concatenate(values) for name, values in found.items()}
    _check_finite(arrays, options.file)
    truth = np.array([one.index for one in wanted], np.int64)
    return Answers(truth, arrays[PROBABILITIES], arrays.get(EMBEDDING))


def _outside_embeddings(
    engine: Engine, contract: ModelContract, source: Path
) -> NDArray[np.float32]:
    with open_images(source) as images:
        found = [
            engine.run([*batch], (EMBEDDING,))[EMBEDDING]
            for batch in batches(images, images.names, contract.preprocessing, "judging")
        ]
    embeddings = np.concatenate(found)
    _check_finite({EMBEDDING: embeddings}, source)
    return embeddings


def _outputs(contract: ModelContract) -> Sequence[str]:
    has_embedding = EMBEDDING in contract.optional_outputs
    return (PROBABILITIES, EMBEDDING) if has_embedding else (PROBABILITIES,)


def _check_finite(arrays: dict[str, NDArray[np.float32]], where: Path) -> None:
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ImagesError(f"{where}: the {name} for some image is not finite")
