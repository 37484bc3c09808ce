"""Analyses a foreign ONNX classifier's graph: its input and output, and what can't be served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnx import TensorProto, helper, numpy_helper

from model_export.errors import AdoptError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

_AGAIN = "export it again"
_ELEMENTWISE = {"Cast", "Identity", "Sub", "Add", "Mul", "Div"}
_SHAPING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
BOUNDED = {"Sigmoid", "HardSigmoid", "Tanh"}  # their values are not logits, nor do they add up to 1
_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_TRAINING_MODE_SINCE = 14  # before, the number of outputs of batch normalisation shows it


def image_input(model: ModelProto) -> ValueInfoProto:
    """Return the input for images; others may only be weights. Raises `AdoptError`."""
    weights = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise AdoptError(f"must have one input, for images, but has {names}")
    found: ValueInfoProto = inputs[0]
    tensor = found.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    told = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
    what = f"input {found.name} is {_type_name(tensor.elem_type)} [{told}]"
    if len(shape) == 4 and shape[1] != 3 and (shape[3] == 3 or _is_turned(model, found.name)):
        raise AdoptError(
            f"{what}, channels last, not float32 [N, 3, H, W]; {_AGAIN} with channels first"
        )
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 4 or shape[1] not in {0, 3}:
        raise AdoptError(f"{what}, not float32 [N, 3, H, W]")
    if any(dim.HasField("dim_value") and dim.dim_value < 1 for dim in tensor.shape.dim):
        sizes = ", ".join(str(dim.dim_value or dim.dim_param or 0) for dim in tensor.shape.dim)
        raise AdoptError(
            f"input {found.name} is declared as [{sizes}], but no dimension can be 0 or less; "
            f"{_AGAIN} with a dynamic batch size"
        )
    if shape[0] > 1:
        raise AdoptError(
            f"{what}: always takes {shape[0]} images at a time, but the service needs any number; "
            f"{_AGAIN} with a dynamic batch size"
        )
    return found


def _type_name(number: int) -> str:
    known: dict[int, str] = {value: name for name, value in TensorProto.DataType.items()}
    return known.get(number, f"of an unknown type ({number})")


def fixed_size(source: ValueInfoProto) -> int | tuple[int, int] | None:
    """Return the input's size if it is fixed: a square's side, or (height, width)."""
    height, width = (dim.dim_value for dim in source.type.tensor_type.shape.dim[2:])
    if height and width and height != width:
        return height, width
    return height or width or None


def chosen_output(model: ModelProto, name: str | None) -> ValueInfoProto:
    """Return the output with that name, or the only one. Raises `AdoptError`."""
    outputs = list(model.graph.output)
    chosen = outputs if name is None else [value for value in outputs if value.name == name]
    names = ", ".join(value.name for value in outputs)
    if not outputs:
        raise AdoptError("has no output")
    if name is None and len(outputs) > 1:
        raise AdoptError(f"has {len(outputs)} outputs, {names}; --output-name selects one")
    if len(chosen) != 1:
        raise AdoptError(f"--output-name {name}: must be one of its outputs: {names}")
    found: ValueInfoProto = chosen[0]
    return found


def check_modes(model: ModelProto) -> None:
    """Raise `AdoptError` if it computes from each batch what should be fixed after training."""
    for node in model.graph.node:
        if node.op_type in _DYNAMIC:
            raise AdoptError(
                f"is quantised dynamically ({node.op_type} takes its range from each batch), so an "
                "image's answer depends on other images in its batch; adopt the float32 file, or "
                "one that is quantised statically"
            )
        if node.op_type == "BatchNormalization" and _is_training(model, node):
            raise AdoptError(
                "its BatchNormalization is in training mode, so an image's answer depends on other "
                f"images in its batch; {_AGAIN} in inference mode"
            )


def mixers(model: ModelProto) -> str:
    """Return the nodes that may make an answer depend on the batch, in parentheses, or ""."""
    found = dict.fromkeys(_mixers(model))
    return f" ({', '.join(found)})" if found else ""


def _mixers(model: ModelProto) -> Iterator[str]:
    constants = {
        value.name: numpy_helper.to_array(value)
        for value in model.graph.initializer
        if value.data_type == TensorProto.INT64
    }
    for node in model.graph.node:
        if 0 in _axes(node, constants):
            yield f"{node.op_type} over axis 0, the batch"
        elif node.op_type == "Reshape" and node.input[1] in constants:
            shape = constants[node.input[1]]
            if shape.size and shape[0] > 0:
                yield f"Reshape to {shape.tolist()}"


def _axes(node: NodeProto, constants: Mapping[str, Any]) -> list[int]:
    """Return the axes over which a node computes; for Reduce nodes, they may be an input."""
    if node.op_type in {"Softmax", "LogSoftmax", "Flatten"}:
        axis = _attribute(node, "axis")
        return [] if axis is None else [axis]
    if not node.op_type.startswith("Reduce"):
        return []
    given = _attribute(node, "axes")
    if given is None and len(node.input) > 1:
        given = constants.get(node.input[1])
    return [] if given is None else [int(axis) for axis in given]


def last_step(model: ModelProto, result: str) -> str:
    """Return the operator that computes an output's values, skipping those that only reshape."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(result)
    while node is not None and node.op_type in _SHAPING and node.input:
        node = producers.get(node.input[0])
    return str(node.op_type) if node is not None else ""


def _is_turned(model: ModelProto, name: str) -> bool:
    """Return whether an input is first transposed from channels last to channels first."""
    while users := [node for node in model.graph.node if name in node.input]:
        if users[0].op_type == "Transpose":
            return list(_attribute(users[0], "perm") or ()) == [0, 3, 1, 2]
        if users[0].op_type not in _ELEMENTWISE:
            break
        name = users[0].output[0]
    return False


def _is_training(model: ModelProto, node: NodeProto) -> bool:
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset >= _TRAINING_MODE_SINCE:
        return bool(_attribute(node, "training_mode"))
    return len([name for name in node.output if name]) > 1


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)
