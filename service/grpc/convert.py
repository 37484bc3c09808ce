"""Turns protobuf messages into V2 requests, and V2 answers into messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import InvalidInferError, InvalidTensorError
from service.grpc.messages import messages
from service.kserve.request import InferRequest, WantedOutput, check_parameters, classes_wanted
from service.kserve.response import InferResponse
from service.kserve.tensors import BYTES, UINT8, InputTensor
from service.wording import shortened

_FINAL = "triton_final_response"
_WANTS_FINAL = "triton_enable_empty_final_response"
_MOST_TENSORS = 16

_CONTENTS = {UINT8: "uint_contents", BYTES: "bytes_contents"}
"""The fields that hold the elements of the datatypes that models take."""


def request_of(message: Any) -> InferRequest:
    """Return a ModelInferRequest as a V2 request.

    Raises `InvalidInferError`, `InvalidTensorError` or `SharedMemoryError`.
    """
    if max(len(message.inputs), len(message.outputs)) > _MOST_TENSORS:
        raise InvalidInferError(f"a request may have {_MOST_TENSORS} inputs and outputs at most")
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInferError(
            f"raw_input_contents has {len(raw)} tensors for {len(message.inputs)} inputs"
        )
    inputs = [
        _input(tensor, raw[number] if raw else None) for number, tensor in enumerate(message.inputs)
    ]
    outputs = [_wanted(output) for output in message.outputs]
    return InferRequest(inputs, outputs, message.id, parameters_of(message.parameters), binary=True)


def parameters_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values."""
    return {
        name: getattr(value, kind)
        for name, value in parameters.items()
        if (kind := value.WhichOneof("parameter_choice")) is not None
    }


def _input(tensor: Any, raw: bytes | None) -> InputTensor:
    parameters = parameters_of(tensor.parameters)
    check_parameters(parameters)
    typed = tensor.HasField("contents")
    if raw is not None and typed:
        raise InvalidTensorError(
            f"input {shortened(tensor.name)} has contents beside raw_input_contents"
        )
    data: bytes | Sequence[Any] = b"" if raw is None else raw
    if typed:
        contents, own = tensor.contents, _CONTENTS.get(tensor.datatype)
        data = list(getattr(contents, own)) if own else []
        if any(field.name != own for field, _ in contents.ListFields()):
            raise InvalidTensorError(
                f"the contents of input {shortened(tensor.name)} are not those of its datatype, "
                f"{shortened(tensor.datatype)}: {own or 'which no model takes'}"
            )
    return InputTensor(tensor.name, tensor.datatype, list(tensor.shape), data, parameters)


def _wanted(output: Any) -> WantedOutput:
    parameters = parameters_of(output.parameters)
    check_parameters(parameters)
    return WantedOutput(output.name, binary=True, classes=classes_wanted(parameters))


def response_of(response: InferResponse, *, final: bool = False) -> Any:
    """Return a ModelInferResponse, its data raw; `final` marks it as its request's last."""
    message = messages.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    for output in response.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        message.raw_output_contents.append(output.raw())
    if final:
        message.parameters[_FINAL].bool_param = True
    return message


def wants_final(message: Any) -> bool:
    """Return whether a request in a stream wants its last answer marked."""
    wanted = _WANTS_FINAL in message.parameters  # a look-up would add it
    return wanted and bool(message.parameters[_WANTS_FINAL].bool_param)
