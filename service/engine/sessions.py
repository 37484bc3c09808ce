"""Sessions of ONNX Runtime: opened on the provider that is asked for, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from service.contract import INPUT_NAME, PROBABILITIES, way_to_a_model_file
from service.engine.bound import Session
from service.engine.providers import CPU, Provider
from service.errors import ModelFileError, first_line

ERRORS_ONLY = 3  # of ONNX Runtime's severities


def session_options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    """Return the options that all sessions have."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return options


def open_session(
    path: Path,
    options: onnxruntime.SessionOptions,
    provider: Provider,
    provider_options: Mapping[str, Any],
) -> Session:
    """Open a file on a provider, with the CPU for what that can't compute.

    Raises `ProviderError` when the session does not run on it, and what ONNX Runtime raises.
    """
    wanted = [(provider.runtime_name, dict(provider_options)), CPU.runtime_name]
    session = _open(path, options, wanted)
    provider.attest(path, session.get_providers())
    return session


def open_cpu_session(path: Path, options: onnxruntime.SessionOptions) -> Session:
    """Open a file on the CPU; raises `ModelFileError` if it is no model file."""
    try:
        session = _open(path, options, [CPU.runtime_name])
    except Exception as error:  # ONNX Runtime's errors share no other root
        raise ModelFileError(f"{path}: ONNX Runtime can't load it: {first_line(error)}") from error
    _check_graph(session, path)
    return session


def stated_classes(session: Session) -> int | None:
    """Return C of the probabilities, if the file states it."""
    outputs = {output.name: output.shape for output in session.get_outputs()}
    size = outputs[PROBABILITIES][1]
    return size if isinstance(size, int) else None


def stated_input(session: Session) -> tuple[int | None, int | None, int | None]:
    """Return N, H and W of the images, each None where the file leaves it open."""
    (images,) = session.get_inputs()
    batch, height, width = (n if isinstance(n, int) else None for n in images.shape[:3])
    return batch, height, width


def _open(path: Path, options: onnxruntime.SessionOptions, providers: list[Any]) -> Session:
    # Without enable_fallback=0 the wrapper would retry on the CPU by itself, here and in run().
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=providers, enable_fallback=0
    )


def _check_graph(session: Session, path: Path) -> None:
    """Raise `ModelFileError` unless the inputs and outputs are those of a model file."""
    inputs = [(node.name, node.type, node.shape) for node in session.get_inputs()]
    match inputs:
        case [(name, "tensor(uint8)", [_, _, _, channels])] if name == INPUT_NAME:
            fits = channels == 3 or not isinstance(channels, int)  # symbolic sizes are strings
        case _:
            fits = False
    if not fits:
        raise ModelFileError(
            f"{path}: takes {inputs or 'nothing'}, not the one input `{INPUT_NAME}` "
            f"uint8 [N, H, W, 3]; {way_to_a_model_file(str(path))}"
        )
    outputs = {node.name: (node.type, len(node.shape)) for node in session.get_outputs()}
    if outputs.get(PROBABILITIES) != ("tensor(float)", 2):
        raise ModelFileError(
            f"{path}: has no output `{PROBABILITIES}` float32 [N, C]; "
            f"{way_to_a_model_file(str(path))}"
        )
