"""Runs a foreign ONNX classifier unchanged, to find out what its answers are and check them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_export.errors import AdoptError
from model_export.foreign_graph import BOUNDED, last_step, mixers
from model_export.reference import Outputs, Reference
from service.contract import PROBABILITIES, Preprocessing
from service.errors import first_line

if TYPE_CHECKING:
    from onnx import ModelProto

Kind = Literal["logits", "probabilities"]
Activation = Literal["Softmax", "Sigmoid"]
"""What makes probabilities of logits, in ONNX's terms."""

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
           "Multinomial", "Dropout"}  # fmt: skip
_TAKEN = (np.float32, np.float64)  # float16's rounding would hide differences in comparisons


class Foreign:
    """The file, with the preprocessing that it needs done in NumPy."""

    def __init__(
        self,
        file: Path,
        source: str,
        result: str,
        preprocessing: Preprocessing,
        channels: str,
        others: Sequence[str] = (),
    ) -> None:
        self.source, self.result, self.channels = source, result, channels
        self._others = others
        self.mean = np.array(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
        self.std = np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # By default it goes by the file name's suffix.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no other base class
            raise AdoptError(f"ONNX Runtime can't load it: {first_line(error)}") from error

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return its output `result` [N, C] for uint8 [N, H, W, 3]; raises `AdoptError`."""
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
        x = (x - self.mean) / self.std
        if self.channels == "bgr":
            x = np.ascontiguousarray(x[:, ::-1])
        # One by one: a file may take no more at a time, which is only reported for the wrapped one.
        answers = [self._run(image[None]) for image in x]
        return np.concatenate(answers)

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (answer,) = self._session.run([self.result], {self.source: x})
        except Exception as error:  # its errors share no other base class
            raise AdoptError(
                f"it does not run on float32 {list(x.shape)}: {first_line(error)}; set its size "
                "with --input-size"
            ) from error
        if not isinstance(answer, np.ndarray):
            raise AdoptError(f"output {self.result} is a {type(answer).__name__}, not a tensor")
        if answer.dtype in _TAKEN and answer.size == 1:
            raise AdoptError(
                f"output {self.result} is one number per image, as for yes or no, but a model file "
                "needs one for each of two or more classes; export it again with two: the softmax "
                "of (0, x) is the sigmoid of x"
            )
        # Any of the other dimensions may have the classes: they are flattened.
        is_row = answer.ndim >= 2 and answer.shape[0] == 1 and 2 <= max(answer.shape) == answer.size
        if answer.dtype not in _TAKEN or not is_row:
            raise AdoptError(
                f"output {self.result} is {answer.dtype} {list(answer.shape)} for one image, not "
                f"float32 [1, C]; {self._way_out(answer)}"
            )
        return answer.reshape(1, -1).astype(np.float32)

    def _way_out(self, answer: NDArray[Any]) -> str:
        if self._others:
            return f"--output-name selects another: {', '.join(self._others)}"
        if np.issubdtype(answer.dtype, np.integer) and answer.size == 1:
            return "that is a class's index; export it again without its last step, ArgMax"
        if np.issubdtype(answer.dtype, np.floating) and answer.dtype not in _TAKEN:
            return "export it again with float32 outputs"
        return "export it again with one number for each class"

    def reference(self, activation: Activation | None) -> Reference:
        """Return its answers as probabilities, for `verify.compare`."""

        def outputs(images: NDArray[np.uint8]) -> Outputs:
            values = self(images)
            if activation == "Softmax":
                values = np.exp(values - values.max(axis=1, keepdims=True))
                values /= values.sum(axis=1, keepdims=True)
            elif activation == "Sigmoid":
                values = (0.5 * (1 + np.tanh(0.5 * values))).astype(np.float32)  # can't overflow
            return {PROBABILITIES: values}

        return outputs


def check_repeatable(model: ModelProto, foreign: Foreign, images: NDArray[np.uint8]) -> None:
    """Raise `AdoptError` unless its answers are finite and the same for the same image."""
    first, second = foreign(images), foreign(images)
    if not np.isfinite(first).all():
        raise AdoptError("its answer to an ordinary image is not finite (NaN or infinity)")
    if not np.allclose(first, second, rtol=1e-3, atol=1e-5 * float(np.abs(first).max())):
        random = sorted({n.op_type for n in model.graph.node} & _RANDOM)
        cause = f": it has {', '.join(random)}" if random else ""
        raise AdoptError(f"its answer to the same image changes at random{cause}")


def kind_of(
    model: ModelProto,
    foreign: Foreign,
    values: NDArray[np.float32],
    said: Kind | None,
    *,
    multi_label: bool,
) -> Kind:
    """Return `said` or, without it, decide by answers [N, C] to ordinary images.

    Raises `AdoptError` if `said` is wrong, or is needed to decide.
    """
    low, high = float(values.min()), float(values.max())
    if said == "probabilities" and not (low >= 0 and high <= 1):
        raise AdoptError(
            f"--gives probabilities: its answers range from {low:.3g} to {high:.3g}, not 0 to 1"
        )
    if said is not None:
        return said
    last = last_step(model, foreign.result)
    if multi_label:
        return _kind_of_independent(foreign.result, last, low, high)
    sums = values.sum(axis=1)
    if low >= 0 and np.allclose(sums, 1, atol=1e-3) and last not in BOUNDED:
        return "probabilities"
    same_sums = bool(np.ptp(sums) <= 1e-3 * abs(float(sums.mean())))
    if last in BOUNDED or (low >= 0 and (high <= 1 or same_sums)):
        if cause := mixers(model):
            raise AdoptError(f"an image's answer depends on other images in its batch{cause}")
        how = f"comes from {last}" if last in BOUNDED else "looks like a sigmoid's"
        raise AdoptError(
            f"output {foreign.result} {how}: values from {low:.3g} to {high:.3g} that add up to "
            f"{float(sums[0]):.3g}, not to 1; pass --multi-label if an image can have several "
            "labels, --gives probabilities to serve them as they are (between 0 and 1), or --gives "
            "logits to apply a softmax"
        )
    return "logits"


def _kind_of_independent(result: str, last: str, low: float, high: float) -> Kind:
    """Decide whether independent labels have been through a sigmoid."""
    if last in {"Sigmoid", "HardSigmoid"}:
        return "probabilities"
    if low >= 0 and high <= 1:
        raise AdoptError(
            f"output {result} has values from {low:.3g} to {high:.3g}, which may be probabilities "
            "or logits; --gives says which"
        )
    return "logits"
