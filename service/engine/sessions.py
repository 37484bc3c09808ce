"""ONNX Runtime sessions, opened on the requested provider or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from service.contract import INPUT_NAME, PROBABILITIES, way_to_a_model_file
from service.engine.bound import Session
from service.engine.providers import CPU, Provider
from service.errors import ModelFileError, first_line

ERRORS_ONLY = 3  # a severity level of ONNX Runtime


def session_options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    """Return the options common to all sessions."""
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
    """Open a file on a provider; operators that it does not support run on the CPU.

    Raises `ProviderError` if the session does not run on it, and what ONNX Runtime raises.
    """
    wanted = [(provider.runtime_name, dict(provider_options)), CPU.runtime_name]
    session = _open(path, options, wanted)
    provider.attest(path, session.get_providers())
    return session


def open_cpu_session(path: Path, options: onnxruntime.SessionOptions) -> Session:
    """Open a file on the CPU; raises `ModelFileError` if it is not a model file."""
    try:
        session = _open(path, options, [CPU.runtime_name])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelFileError(f"{path}: ONNX Runtime can't load it: {first_line(error)}") from error
    _check_graph(session, path)
    return session


def open_to_read(path: Path) -> Session:
    """Open a file on the CPU to read its description; raises `ModelFileError`.

    Nothing is optimised. This also distinguishes a file's own faults from another runtime's.
    """
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_cpu_session(path, options)


def stated_classes(session: Session) -> int | None:
    """Return the C of the probabilities; None if the file leaves it open."""
    outputs = {output.name: output.shape for output in session.get_outputs()}
    size = outputs[PROBABILITIES][1]
    return size if isinstance(size, int) else None


def stated_input(session: Session) -> tuple[int | None, int | None, int | None]:
    """Return N, H and W of the images; None for each that the file leaves open."""
    (images,) = session.get_inputs()
    batch, height, width = (n if isinstance(n, int) else None for n in images.shape[:3])
    return batch, height, width


def _open(path: Path, options: onnxruntime.SessionOptions, providers: list[Any]) -> Session:
    # Otherwise the Python wrapper would retry on the CPU, here and in run().
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=providers, enable_fallback=0
    )


def _check_graph(session: Session, path: Path) -> None:
    """Raise `ModelFileError` unless the graph has a model file's inputs and outputs."""
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
