"""Static quantisation to 8-bit integers with ONNX Runtime.

Weights are quantised per output channel, activations by their range on calibration images. The
graph gets pairs of QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime fuses into integer
convolutions.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from model_export.errors import ExportError, GraphError
from service.contract import INPUT_NAME
from service.errors import first_line

if TYPE_CHECKING:
    from onnx import ModelProto

# Operators with integer kernels. Others (softmax, the mean's subtraction, sigmoids) stay float32.
_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "Concat", "Clip"]
_CLASSIFIER = "classifier_weight"

_PERCENTILE = 99.999
"""Percentage of an activation's values that its quantised range covers.

For the slim ResNet-50, 95.5 % of labels agree with float32's with it, 95.1 % with the whole range,
94.6 % with 99.99, and 89.7 % with a moving average of each image's range.
"""


_AT_ONCE = 8
"""Most images whose activations are in memory together; ResNet-50 has 100 MB per image."""


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ships no types
    """Provides one image at a time, since some calibrators fail if the last batch is shorter."""

    def __init__(self, batches: Iterable[NDArray[np.uint8]], count: int) -> None:
        self._images = (image[None] for batch in batches for image in batch)
        self._count = self._left = count

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        """Provide the images of the next range; ranges are requested in order."""
        self._left = end_index - start_index

    def get_next(self) -> dict[str, Any] | None:
        """Return the next image, or None after the last of the range."""
        if not self._left:
            return None
        self._left -= 1
        return {INPUT_NAME: next(self._images)}


def quantise(
    model: ModelProto,
    target: Path,
    batches: Iterable[NDArray[np.uint8]],
    count: int,
    *,
    reduce_range: bool,
    per_channel: bool = True,
) -> ModelProto:
    """Quantise a float32 model file's graph with `count` uint8 [n, H, W, 3] images, and write it.

    With `reduce_range` weights take 7 bits: without VNNI a CPU adds pairs of products in 16 bits,
    which 8-bit weights would overflow. If the classifier's weights are an output, they remain one,
    in float32. Returns the written graph. Raises `GraphError`.
    """
    published = _without_classifier_output(model)
    with _quiet():
        try:
            quantize_static(
                published, target, _Reader(batches, count), quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS, per_channel=per_channel, reduce_range=reduce_range,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={
                    "CalibPercentile": _PERCENTILE,
                    # Rounded logits would tie, and each would be a step of its label's odds.
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],
                    "CalibStridedMinMax": max(n for n in range(1, _AT_ONCE + 1) if count % n == 0),
                },
            )  # fmt: skip
        except ExportError:  # from reading the images
            raise
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = tempfile.gettempdir()  # where it writes
            raise
        except Exception as error:  # its errors share no other base class
            raise GraphError(
                f"ONNX Runtime can't quantise the graph: {first_line(error)}"
            ) from error
    quantised = onnx.load(target)
    if any(output.name == _CLASSIFIER for output in model.graph.output):
        _publish_classifier(quantised, model)
    onnx.save(quantised, target)
    return quantised


def _without_classifier_output(model: ModelProto) -> ModelProto:
    """Copy a graph without the classifier's weights as an output, which would be disconnected."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    kept = [output for output in copied.graph.output if output.name != _CLASSIFIER]
    del copied.graph.output[:]
    copied.graph.output.extend(kept)
    return copied


def _publish_classifier(quantised: ModelProto, model: ModelProto) -> None:
    """Make the quantised weights an output, through a separate node.

    The node that feeds the classifier could not be fused if its result were an output too.
    """
    inner = [
        node
        for node in quantised.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] == f"{_CLASSIFIER}_quantized"
    ]
    if len(inner) != 1:
        raise GraphError("the quantised graph has no weights of the classifier")
    outer = helper.make_node(
        "DequantizeLinear", inner[0].input, [_CLASSIFIER], name=f"dequantize_{_CLASSIFIER}"
    )
    outer.attribute.extend(inner[0].attribute)
    quantised.graph.node.append(outer)
    (shape,) = [
        [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        for output in model.graph.output
        if output.name == _CLASSIFIER
    ]
    quantised.graph.output.append(
        helper.make_tensor_value_info(_CLASSIFIER, TensorProto.FLOAT, shape)
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's output and its advice on preprocessing."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
