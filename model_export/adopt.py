"""Foreign ONNX classifiers as model files: preprocessing, softmax and contract are added.

images uint8 [N, H, W, 3] -> [N, 3, H, W] float32 -> minus mean x 255, over 255 x std -> theirs
    -> [softmax ->] probabilities
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from model_export.commands import checked_output, served_name
from model_export.errors import AdoptError, ExportError
from model_export.export import tools
from model_export.files import replacing, sha256_of
from model_export.golden_cases import golden_cases
from model_export.labels import labels_for
from model_export.model_file import attach_contract, load_graph
from model_export.preprocessing import preprocessing_of
from model_export.reference import Outputs, Reference
from model_export.verify import SAME_WEIGHTS, TOLERANCE, answers_of, check_answers, compare
from service.contract import (
    INPUT_NAME,
    PROBABILITIES,
    ModelContract,
    Parity,
    Preprocessing,
    Weights,
)
from service.golden import golden_pattern

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_PREFIX = "adopted_"  # of all names in their graph, so that none is there twice
_LEAST_OPSET = 7  # of the added nodes as they are written
_LEAST_IR = 4  # the first in which weights need not be inputs


def adopt_command(options: Namespace) -> None:
    """Adopt a file as the options say, and print what was measured."""
    try:
        _adopt(options)
    except AdoptError as error:
        raise AdoptError(f"{options.file}: {error}") from error


def _adopt(options: Namespace) -> None:
    output = checked_output(options.output)
    theirs = load_graph(options.file)
    source = _input(theirs)
    result = _output(theirs, options.output_name)
    preprocessing = preprocessing_of(options, side=_side(source))
    foreign = _Foreign(options.file, source.name, result.name, preprocessing, options.channels)
    answers = foreign(_three_images(preprocessing.crop))
    kind = options.gives or _kind(answers)
    labels = labels_for(answers.shape[1], options.labels)
    model = _wrapped(theirs, foreign, preprocessing.crop, len(labels), softmax=kind == "logits")
    with replacing(output) as file:
        onnx.save(model, file)
        reference = foreign.reference(softmax=kind == "logits")
        parity = _compare(file, reference, preprocessing.crop, options.max_batch)
        contract = ModelContract(
            name=options.name or served_name(output),
            architecture=options.architecture,
            preprocessing=preprocessing,
            labels=labels,
            weights=Weights(
                source=options.source_note or options.file.name, sha256=sha256_of(options.file)
            ),
            tools=tools(),
            parity=parity,
            tolerance=TOLERANCE,
            golden=golden_cases(answers_of(file), preprocessing),
        )
        attach_contract(model, contract)
        onnx.save(model, file)
        check_answers(file, contract)
    sys.stdout.write(
        f"{output}: {len(labels)} classes, {kind} in the original; max difference from it "
        f"{parity.max_abs_diff:.2g} at batch sizes {', '.join(map(str, parity.batch_sizes))}\n"
    )


def _compare(file: Path, reference: Reference, side: int, largest_batch: int) -> Parity:
    """Hold the wrapped file to the original's answers to one image at a time."""
    try:
        return compare(file, reference, SAME_WEIGHTS, side=side, largest_batch=largest_batch)
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no other root
        raise AdoptError(
            f"does not take several images at a time, which the service needs: {_line(error)}; "
            "export it again with a dynamic batch size"
        ) from error


class _Foreign:
    """The file as it came, with the preprocessing that it wants done in NumPy."""

    def __init__(
        self, file: Path, source: str, result: str, preprocessing: Preprocessing, channels: str
    ) -> None:
        self.source, self.result, self.channels = source, result, channels
        self.mean = np.array(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
        self.std = np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no other root
            raise AdoptError(f"ONNX Runtime can't load it: {_line(error)}") from error

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give its output [N, C] for uint8 [N, H, W, 3]; raises `AdoptError`."""
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
        x = (x - self.mean) / self.std
        if self.channels == "bgr":
            x = np.ascontiguousarray(x[:, ::-1])
        # One by one: a file may take no more at a time, which is then said of ours.
        answers = [self._run(image[None]) for image in x]
        return np.concatenate(answers)

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (answer,) = self._session.run([self.result], {self.source: x})
        except Exception as error:  # its errors share no other root
            raise AdoptError(
                f"it does not run on float32 {list(x.shape)}: {_line(error)}; --input-size says "
                "what it takes"
            ) from error
        if not isinstance(answer, np.ndarray):
            raise AdoptError(f"output {self.result} is a {type(answer).__name__} and no tensor")
        if answer.dtype != np.float32 or answer.ndim < 2 or not 2 <= answer.shape[1] == answer.size:
            raise AdoptError(
                f"output {self.result} is {answer.dtype} {list(answer.shape)} for one image, not "
                "float32 [1, C]; --output-name picks another"
            )
        flat: NDArray[np.float32] = answer.reshape(1, -1)
        return flat

    def reference(self, *, softmax: bool) -> Reference:
        """Give its answers as probabilities, for `compare`."""

        def outputs(images: NDArray[np.uint8]) -> Outputs:
            values = self(images)
            if softmax:
                values = np.exp(values - values.max(axis=1, keepdims=True))
                values /= values.sum(axis=1, keepdims=True)
            return {PROBABILITIES: values}

        return outputs


def _three_images(side: int) -> NDArray[np.uint8]:
    return np.stack([golden_pattern(seed, side) for seed in range(3)])


def _kind(values: NDArray[np.float32]) -> str:
    """Tell probabilities, which are not negative and add up to 1, from logits."""
    ones = np.allclose(values.sum(axis=1), 1, atol=1e-3)
    return "probabilities" if ones and values.min() >= 0 else "logits"


def _input(model: ModelProto) -> ValueInfoProto:
    """Find the input that takes images; the others may only be weights."""
    weights = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise AdoptError(f"must have one input, which takes images; it has {names}")
    found: ValueInfoProto = inputs[0]
    tensor = found.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 4 or shape[1] not in {0, 3}:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise AdoptError(f"input {found.name} is {kind} {shape}, not float32 [N, 3, H, W]")
    return found


def _output(model: ModelProto, name: str | None) -> ValueInfoProto:
    outputs = list(model.graph.output)
    chosen = outputs if name is None else [value for value in outputs if value.name == name]
    if len(chosen) != 1:
        names = ", ".join(value.name for value in outputs)
        raise AdoptError(f"--output-name must be one of its outputs: {names}")
    found: ValueInfoProto = chosen[0]
    return found


def _side(source: ValueInfoProto) -> int | None:
    """Give the side that the input is fixed to, if it is; raises `AdoptError` if not square."""
    height, width = (dim.dim_value for dim in source.type.tensor_type.shape.dim[2:])
    if height != width:
        raise AdoptError(f"takes images of {width} x {height} pixels, and only squares are served")
    return height or None


def _wrapped(
    model: ModelProto, foreign: _Foreign, side: int, classes: int, *, softmax: bool
) -> ModelProto:
    """Put preprocessing before and softmax behind; weights that are inputs cease to be."""
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset < _LEAST_OPSET:
        raise AdoptError(f"is of operator set {opset}; {_LEAST_OPSET} is the oldest that is taken")
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise AdoptError("has control flow (If, Loop, Scan), which is not taken")
    wrapped = compose.add_prefix(model, _PREFIX)
    wrapped.ir_version = max(model.ir_version, _LEAST_IR)
    graph = wrapped.graph
    # Shapes that were inferred for their batch size, which is to be any.
    del graph.value_info[:], graph.input[:], graph.output[:]
    graph.input.append(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", side, side, 3])
    )
    graph.output.append(
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", classes])
    )
    before = _before(foreign)
    behind = _behind(foreign, softmax=softmax)
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (
            ("offset", foreign.mean * 255),
            ("scale", 1 / (255 * foreign.std)),
            ("bgr_order", np.array([2, 1, 0], np.int64)),
        )
        if name != "bgr_order" or foreign.channels == "bgr"
    )
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    try:
        onnx.checker.check_model(wrapped)
    except onnx.checker.ValidationError as error:
        raise AdoptError(f"is no valid graph with what was added: {_line(error)}") from error
    return wrapped


def _before(foreign: _Foreign) -> list[Any]:
    target = _PREFIX + foreign.source
    swapped = foreign.channels == "bgr"
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["float_images"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_images"], ["rgb_images"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["rgb_images", "offset"], ["centred_images"]),
        helper.make_node(
            "Mul", ["centred_images", "scale"], ["scaled_images" if swapped else target]
        ),
    ]
    if swapped:
        nodes.append(helper.make_node("Gather", ["scaled_images", "bgr_order"], [target], axis=1))
    return nodes


def _behind(foreign: _Foreign, *, softmax: bool) -> list[Any]:
    # Some give [N, C, 1, 1].
    flat = helper.make_node("Flatten", [_PREFIX + foreign.result], ["flat_answers"], axis=1)
    if softmax:
        return [flat, helper.make_node("Softmax", ["flat_answers"], [PROBABILITIES], axis=1)]
    return [flat, helper.make_node("Identity", ["flat_answers"], [PROBABILITIES])]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
