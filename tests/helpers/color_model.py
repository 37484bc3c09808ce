"""A real model file with predictable answers: it names an image's strongest colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.contract import (
    INPUT_NAME,
    METADATA_KEY,
    PROBABILITIES,
    Allowed,
    GoldenPattern,
    Label,
    ModelContract,
    Parity,
    Preprocessing,
    Weights,
)
from service.golden import golden_pattern

COLORS = ("red", "green", "blue")
SHARPNESS = 0.05
WEIGHT = np.eye(3, dtype=np.float32) * np.float32(SHARPNESS)


def reference(pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities [3] of uint8 [H, W, 3] pixels, computed without ONNX."""
    logits = pixels.astype(np.float64).mean(axis=(0, 1)) * SHARPNESS
    exp = np.exp(logits - logits.max())
    probabilities: np.ndarray = exp / exp.sum()
    return probabilities


ALLOWED = Allowed(
    source="photos",
    images=2000,
    same_labels=1980,
    mean_abs_diff=1e-4,
    max_abs_diff=0.02,
    tolerance=0.05,
    provider="openvino",
    device="a CPU",
    tools={"openvino": "2026.4.1"},
)
"""How far the colour model's answers would be off in a faster precision."""


def color_contract(**changes: Any) -> ModelContract:
    side = changes.pop("side", 8)
    precision = changes.get("precision", "fp32")
    fields = {
        "name": "color",
        "architecture": "mean-color",
        "preprocessing": Preprocessing(
            resize=side, crop=side, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
        ),
        "labels": tuple(Label(id=f"c{i}", label=color) for i, color in enumerate(COLORS)),
        "weights": Weights(source="written by hand", sha256="0" * 64),
        "tools": {"onnx": onnx.__version__},
        "parity": Parity(max_abs_diff=0, top1_agreement=1, images=1, batch_sizes=(1,)),
        "tolerances": {"cpu": {precision: 1e-4}, "cuda": {precision: 1e-3}},
        "golden": tuple(
            GoldenPattern(seed=seed, probabilities=tuple(reference(golden_pattern(seed, side))))
            for seed in (1, 2)
        ),
    }
    return ModelContract(**(fields | changes))


def as_schema_1(contract: ModelContract) -> dict[str, object]:
    """Return a contract's JSON as the first releases wrote it."""
    fields = contract.model_dump(mode="json", exclude_none=True)
    limits = {provider: contract.tolerance(provider) for provider in fields.pop("tolerances")}
    return fields | {"schema_version": 1, "tolerance": limits}


def write_schema_1(path: Path, **changes: Any) -> Path:
    """Write the model file as the first releases wrote it; `changes` go into its contract."""
    model = color_graph()
    text = json.dumps(as_schema_1(color_contract(**changes)))
    helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)
    return path


def write_color_model(
    path: Path,
    contract: ModelContract | None = None,
    *,
    extra_outputs: bool = False,
    **changes: Any,
) -> Path:
    """Write the model file; `changes` go into its contract. `contract=None` uses a valid one.

    With `extra_outputs` it also has an embedding, features and a classifier's weight.
    """
    model = color_graph()
    if extra_outputs:
        changes["optional_outputs"] = add_outputs(model)
    text = (contract or color_contract(**changes)).model_dump_json()
    helper.set_model_props(model, {METADATA_KEY: text})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def add_outputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Make intermediate values and an unused weight outputs; return their names."""
    graph = model.graph
    graph.node.append(helper.make_node("Identity", ["mean"], ["embedding"]))
    graph.node.append(helper.make_node("Transpose", ["float"], ["features"], perm=[0, 3, 1, 2]))
    graph.initializer.append(numpy_helper.from_array(WEIGHT, "classifier_weight"))
    shapes: tuple[tuple[str, list[str | int | None]], ...] = (
        ("embedding", ["batch", 3]),
        ("features", ["batch", 3, "height", "width"]),
        ("classifier_weight", [3, 3]),
    )
    for name, shape in shapes:
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return ("embedding", "features", "classifier_weight")


def color_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "sharpness"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "color",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", None, None, 3])],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(SHARPNESS, np.float32), "sharpness"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)
