"""A V2 inference request, and what it asks of a model: images, outputs, a deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.batching.ticket import ONLY_PROBABILITIES, Priority
from service.contract import INPUT_NAME, PROBABILITIES
from service.errors import (
    InvalidInferError,
    InvalidPriorityError,
    InvalidTensorError,
    InvalidTimeoutError,
    NoImagesError,
    RequestError,
    SharedMemoryError,
    TooManyImagesError,
)
from service.inference.base64_text import from_base64
from service.inference.deadline import RequestDeadline
from service.inference.request import Image
from service.kserve.tensors import BYTES, UINT8, InputTensor, bytes_of, uint8_of
from service.models.model import ServedModel
from service.settings import MAX_TIMEOUT_MS
from service.wording import shortened

_NOTHING: Mapping[str, Any] = {}
_RESERVED = "triton_"
_KNOWN_RESERVED = "triton_enable_empty_final_response"  # for streams, whose answers are one each
_SEQUENCE = "sequence_"
_SHARED_MEMORY = "shared_memory_region"


@dataclass(slots=True)
class WantedOutput:
    """An output that a request names; with `classes`, as that many `value:index:label`."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(slots=True)
class InferRequest:
    """A request as it came. `outputs` that are not named are the probabilities."""

    inputs: Sequence[InputTensor]
    outputs: Sequence[WantedOutput] = ()
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    binary: bool = False
    """Whether outputs are binary that do not say so themselves."""

    @property
    def wanted(self) -> Sequence[WantedOutput]:
        """Return the outputs to answer, in their order."""
        return self.outputs or (WantedOutput(PROBABILITIES, self.binary),)

    def output_names(self) -> tuple[str, ...]:
        """Return the outputs that the model must compute, each once."""
        names = tuple(dict.fromkeys(output.name for output in self.wanted))
        return ONLY_PROBABILITIES if names == ONLY_PROBABILITIES else names

    def check(self) -> None:
        """Refuse what no model answers.

        Raises `InvalidInferError` or `SharedMemoryError`.
        """
        check_parameters(self.parameters)
        for output in self.outputs:
            if output.classes and output.name != PROBABILITIES:
                raise InvalidInferError(
                    f"classification is of {PROBABILITIES}, not of {shortened(output.name)}"
                )


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that would change the answer and are not supported.

    Others that are unknown are ignored, as the protocol allows. Raises `InvalidInferError` or
    `SharedMemoryError`.
    """
    for name, value in parameters.items():
        if name.startswith(_SEQUENCE) and value:
            raise InvalidInferError(
                f"{shortened(name)} is given, but the models keep no state between requests"
            )
        if name.startswith(_RESERVED) and name != _KNOWN_RESERVED:
            raise InvalidInferError(
                f"parameter {shortened(name)!r} is reserved: names must not begin with {_RESERVED}"
            )
        if name == _SHARED_MEMORY:
            raise SharedMemoryError("tensors in shared memory are not supported; send the data")


def classes_wanted(parameters: Mapping[str, Any]) -> int:
    """Return an output's `classification`, 0 without it. Raises `InvalidInferError`."""
    count = parameters.get("classification", 0)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InvalidInferError(
            f"classification is {shortened(str(count))!r}; it must be how many classes to return"
        )
    return count


def due_by(
    parameters: Mapping[str, Any], due: RequestDeadline, arrival: float, *, stated: bool
) -> RequestDeadline:
    """Return the deadline and priority that a request's parameters ask for.

    `timeout` is in microseconds from the request's arrival, 0 for none; if `stated`, `due` was the
    client's own wish, and the earlier of both counts. Priority 1 is the highest and 0 the default;
    from 2 on it is low. Raises `InvalidTimeoutError` or `InvalidPriorityError`.
    """
    if "timeout" in parameters:
        microseconds = parameters["timeout"]
        if not _is_whole(microseconds) or microseconds > MAX_TIMEOUT_MS * 1000:
            raise InvalidTimeoutError(
                f"timeout is {shortened(str(microseconds))!r}; it must be a whole number of "
                f"microseconds from 0 to {MAX_TIMEOUT_MS * 1000}"
            )
        deadline = arrival + microseconds / 1e6
        if microseconds and not (stated and due.deadline <= deadline):
            due = replace(due, deadline=deadline, timeout_ms=max(1, microseconds // 1000))
    if "priority" in parameters:
        priority = parameters["priority"]
        if not _is_whole(priority):
            raise InvalidPriorityError(
                f"priority is {shortened(str(priority))!r}; it must be a whole number: 1 is the "
                "highest, 0 the default"
            )
        if priority:
            due = replace(due, priority=Priority.HIGH if priority == 1 else Priority.LOW)
    return due


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def images_of(
    request: InferRequest, model: ServedModel, max_images: int
) -> list[Image | RequestError]:
    """Return the images of a request: pixels of a UINT8 tensor, or encoded ones of a BYTES tensor.

    Raises `InvalidTensorError`, `SharedMemoryError`, `NoImagesError` or `TooManyImagesError`.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT_NAME:
        names = ", ".join(shortened(tensor.name) for tensor in request.inputs[:5])
        raise InvalidTensorError(
            f"model {model.name} takes one input, {INPUT_NAME}; the request has "
            f"{len(request.inputs)}{': ' + names if names else ''}"
        )
    tensor = request.inputs[0]
    check_parameters(tensor.parameters)
    height, width = model.contract.preprocessing.input_size
    if tensor.datatype == UINT8:
        fits = len(tensor.shape) == 4 and list(tensor.shape[1:]) == [height, width, 3]
    elif tensor.datatype == BYTES:
        fits = len(tensor.shape) == 1 or (len(tensor.shape) == 2 and tensor.shape[1] == 1)
    else:
        fits = False
    if not fits:
        raise InvalidTensorError(
            f"input {INPUT_NAME} is {shortened(tensor.datatype)} {_shown(tensor.shape)}; model "
            f"{model.name} takes pixels as UINT8 [N, {height}, {width}, 3], in RGB from 0 to 255, "
            "or encoded images as BYTES [N]"
        )
    _check_images(tensor.shape[0], max_images)
    if tensor.datatype == UINT8:
        return [*uint8_of(tensor)]
    return _encoded(tensor)


def _shown(shape: Sequence[int]) -> str:
    return shortened(str([*shape[:9]]))


def _check_images(images: int, max_images: int) -> None:
    if images < 0:
        raise InvalidTensorError(f"the shape of input {INPUT_NAME} has a negative dimension")
    if images == 0:
        raise NoImagesError("the request holds no image: the first dimension of the shape is 0")
    if images > max_images:
        raise TooManyImagesError(
            f"the request holds {shortened(str(images))} images, and {max_images} are allowed "
            "(max_images); send several requests"
        )


def _encoded(tensor: InputTensor) -> list[Image | RequestError]:
    """Return the encoded images of a BYTES tensor; in JSON they are base64."""
    coding = tensor.parameters.get("content_type", "base64")
    found: list[Image | RequestError] = []
    for element in bytes_of(tensor):
        if isinstance(element, bytes):
            found.append(element)
        elif isinstance(element, str) and coding == "base64":
            found.append(from_base64(element))
        else:
            raise InvalidTensorError(
                f"input {tensor.name} is BYTES; in JSON, its data must be images as base64 text"
            )
    return found
