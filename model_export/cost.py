"""Parameters and operations of a model file, computed from its graph alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

_PRODUCTS = {"Conv", "Gemm", "MatMul"}

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters of convolutions and linear layers, and the multiply-adds for one image.

    Those are of convolutions, linear layers and, in self-attention, products of activations. Batch
    normalisation is folded into the convolutions, so there are fewer parameters than in training. A
    multiply-add counts as one, as in the papers; some tools count two operations.
    """

    parameters: int
    multiply_adds: int


def graph_cost(model: ModelProto) -> Cost:
    """Compute a graph's cost from the shapes that ONNX infers for a batch of one image."""
    model = copy.deepcopy(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    # Not strict, and with data propagation, since adopted graphs may compute shapes.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*inferred.value_info, *inferred.output)}
    constants = {value.name: tuple(value.dims) for value in inferred.initializer}
    for node in inferred.node:
        # Weights stored as float16, or quantised.
        if node.op_type in {"Cast", "DequantizeLinear"} and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    shapes |= constants
    products = [
        node
        for node in inferred.node
        if node.op_type in _PRODUCTS
        and node.output[0] in shapes
        and len(shapes.get(node.input[1], ())) > 1
    ]
    names = {name for node in products for name in node.input if name in constants}
    return Cost(
        parameters=sum(prod(constants[name]) for name in names),
        multiply_adds=sum(_multiply_adds(node, shapes) for node in products),
    )


def _multiply_adds(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Return the number of output values times the products that are summed for each."""
    weight = shapes[node.input[1]]
    if node.op_type == "Conv":
        summed = prod(weight[1:])  # input channels of a group x kernel height x kernel width
    else:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        summed = weight[-1 if transposed else -2]
    return prod(shapes[node.output[0]]) * summed


def _shape(value: ValueInfoProto) -> Shape:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
