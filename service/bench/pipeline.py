"""A model file with its decoding, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.contract import ModelContract, parse_contract
from service.engine.base import Engine
from service.engine.onnx import load_engine
from service.engine.providers import CPU, EngineOptions
from service.preprocess.decode import DecodePolicy, decode, prepare_decoding
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An engine on the CPU with its contract and decoding policy."""

    engine: Engine
    contract: ModelContract
    policy: DecodePolicy

    def decode(self, image: bytes) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3] pixels, as the service with default settings would."""
        return decode(image, self.contract.preprocessing, self.policy).pixels


def load_pipeline(path: Path, *, threads: int = 0, runtime_defaults: bool = False) -> Pipeline:
    """Open a model file with `threads` intra-op threads (0: one per core).

    The session has the service's options or, with `runtime_defaults`, ONNX Runtime's defaults:
    waiting threads spin, and memory comes from an arena. Raises `ModelFileError`.
    """
    engine = load_engine(
        path,
        provider=CPU.name,
        intra_op_threads=threads,
        options=EngineOptions(runtime_defaults=runtime_defaults),
    )
    defaults = Settings.model_validate({})
    prepare_decoding()
    return Pipeline(
        engine,
        parse_contract(engine.metadata, file=str(path)),
        DecodePolicy(defaults.max_image_pixels, defaults.jpeg_draft_ratio),
    )
