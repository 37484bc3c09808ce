"""Turns foreign ONNX classifiers into model files: preprocessing, activation and contract.

images uint8 [N, H, W, 3] -> [N, 3, H, W] float32 -> minus mean x 255, over 255 x std -> theirs
    -> [softmax or sigmoid ->] probabilities
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from model_export.errors import AdoptError, ExportError, ParityError
from model_export.export import tools
from model_export.foreign import Activation, Foreign, Kind, check_repeatable, kind_of
from model_export.foreign_graph import (
    check_modes,
    chosen_output,
    fixed_size,
    image_input,
    mixers,
)
from model_export.golden_cases import golden_cases
from model_export.labels import labels_for, multi_label_of
from model_export.model_file import attach_contract, load_graph
from model_export.options import AdoptOptions
from model_export.preprocessing import preprocessing_of
from model_export.preprocessor import read_preprocessor
from model_export.reference import Reference
from model_export.tolerances import tolerances_at
from model_export.verify import SAME_WEIGHTS, answers_of, check_answers, compare
from service.contract import (
    INPUT_NAME,
    METADATA_KEY,
    PROBABILITIES,
    ModelContract,
    Parity,
    Weights,
)
from service.errors import first_line
from service.files import replacing, sha256_of
from service.golden import golden_pattern

if TYPE_CHECKING:
    from onnx import ModelProto

_PREFIX = "adopted_"  # of all names in their graph, to avoid name clashes
_LEAST_OPSET = 7  # the first that has the added nodes in this form
_LEAST_IR = 4  # the first in which weights need not be inputs


def adopt_command(options: AdoptOptions) -> None:
    """Adopt a file as the options say, and print the measured parity."""
    try:
        _adopt(options)
    except (AdoptError, ParityError) as error:
        raise AdoptError(f"{options.file}: {error}") from error


def _adopt(options: AdoptOptions) -> None:
    said, output = options.contract, options.contract.output
    theirs = load_graph(options.file)
    if any(entry.key == METADATA_KEY for entry in theirs.metadata_props):
        raise AdoptError("is already a model file with a contract; the service can use it as it is")
    source = image_input(theirs)
    result = chosen_output(theirs, options.output_name)
    check_modes(theirs)
    fixed = fixed_size(source)
    if options.preprocessor is not None:
        preprocessing = read_preprocessor(options.preprocessor, fixed)
    else:
        preprocessing = preprocessing_of(options.preprocessing, fixed=fixed, offset="even")
    others = [value.name for value in theirs.graph.output if value.name != result.name]
    foreign = Foreign(
        options.file, source.name, result.name, preprocessing, options.channels, others
    )
    size = preprocessing.input_size
    images = _three_images(size)
    check_repeatable(theirs, foreign, images)
    answers = foreign(images)
    independent = options.multi_label.independent
    kind = kind_of(theirs, foreign, answers, options.gives, multi_label=independent)
    activation = _activation(kind, independent=independent)
    labels = labels_for(answers.shape[1], said.labels)
    model = _wrapped(theirs, foreign, size, len(labels), activation)
    with replacing(output) as file:
        onnx.save(model, file)
        reference = foreign.reference(activation)
        parity = _compare(theirs, file, reference, size, said.max_batch)
        contract = ModelContract(
            name=said.name,
            architecture=options.architecture,
            preprocessing=preprocessing,
            labels=labels,
            multi_label=multi_label_of(options.multi_label, labels),
            weights=Weights(
                source=said.source_note or options.file.name, sha256=sha256_of(options.file)
            ),
            tools=tools("onnx", "pillow"),
            parity=parity,
            tolerances=tolerances_at("fp32"),
            golden=golden_cases(answers_of(file), preprocessing),
        )
        attach_contract(model, contract)
        onnx.save(model, file)
        check_answers(file, contract)
    sys.stdout.write(
        f"{output}: {len(labels)} classes, {kind} in the original; max difference from it "
        f"{parity.max_abs_diff:.2g} at batch sizes {', '.join(map(str, parity.batch_sizes))}\n"
    )


def _activation(kind: Kind, *, independent: bool) -> Activation | None:
    if kind == "probabilities":
        return None
    return "Sigmoid" if independent else "Softmax"


def _compare(
    theirs: ModelProto, file: Path, reference: Reference, size: tuple[int, int], largest: int
) -> Parity:
    """Compare the wrapped file with the original's answers to one image at a time."""
    compare(file, reference, SAME_WEIGHTS, size=size, largest_batch=1, whose="the original")
    try:
        return compare(
            file, reference, SAME_WEIGHTS, size=size, largest_batch=largest, whose="the original"
        )
    except ParityError as error:
        raise AdoptError(
            f"an image's answer depends on other images in its batch{mixers(theirs)}: {error}"
        ) from error
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no other root
        raise AdoptError(
            f"does not take several images at a time{mixers(theirs)}, as the service requires: "
            f"{first_line(error)}; export it again with a dynamic batch size"
        ) from error


def _three_images(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.stack([golden_pattern(seed, *size) for seed in range(3)])


def _wrapped(
    model: ModelProto,
    foreign: Foreign,
    size: tuple[int, int],
    classes: int,
    activation: Activation | None,
) -> ModelProto:
    """Return the graph between preprocessing and activation, with no weights as inputs."""
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset < _LEAST_OPSET:
        raise AdoptError(f"uses operator set {opset}; the oldest supported one is {_LEAST_OPSET}")
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise AdoptError("has control flow (If, Loop, Scan), which is not supported")
    wrapped = compose.add_prefix(model, _PREFIX)
    wrapped.ir_version = max(model.ir_version, _LEAST_IR)
    graph = wrapped.graph
    # Inferred shapes may be for a fixed batch size.
    del graph.value_info[:], graph.input[:], graph.output[:]
    graph.input.append(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", *size, 3])
    )
    graph.output.append(
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", classes])
    )
    before = _before(foreign)
    behind = _behind(foreign, activation)
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
        raise AdoptError(f"its graph becomes invalid when wrapped: {first_line(error)}") from error
    return wrapped


def _before(foreign: Foreign) -> list[Any]:
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


def _behind(foreign: Foreign, activation: Activation | None) -> list[Any]:
    cast = "float_answers" if activation else PROBABILITIES
    nodes = [
        # Some return [N, C, 1, 1] or float64.
        helper.make_node("Flatten", [_PREFIX + foreign.result], ["flat_answers"], axis=1),
        helper.make_node("Cast", ["flat_answers"], [cast], to=TensorProto.FLOAT),
    ]
    if activation:
        nodes.append(helper.make_node(activation, [cast], [PROBABILITIES]))
    if activation == "Softmax":
        nodes[-1].attribute.append(helper.make_attribute("axis", 1))
    return nodes
