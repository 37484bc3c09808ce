"""The bodies of V2 inference requests and answers: JSON, and tensors in binary behind it.

Triton calls the binary part an extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import codecs
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from service.contract import INPUT_NAME
from service.errors import InvalidInferError, MalformedJsonError
from service.kserve.request import InferRequest, WantedOutput, check_parameters, classes_wanted
from service.kserve.response import InferResponse
from service.kserve.tensors import UINT8, InputTensor, Raw, split
from service.models.model import ServedModel
from service.wording import shortened, what_is_wrong

_MOST_DIMENSIONS = 8
_MOST_TENSORS = 16
_SPARE_ITEMS = 1000
"""How many commas or brackets the JSON may have besides those of its data."""

_SMALL = 1024
"""Up to this size, JSON is parsed once: what stands before binary data is often the same."""

_FORM = '{"inputs": [{"name": ..., "datatype": ..., "shape": [...], "data": [...]}]}'

Dimension = Annotated[int, Field(strict=True, ge=0)]
Parameters = Annotated[dict[str, Any], Field(default_factory=dict)]


class RequestInput(BaseModel):
    """An input tensor; its data may be nested as its shape is, or follow in binary."""

    name: str
    datatype: str
    shape: list[Dimension] = Field(max_length=_MOST_DIMENSIONS)
    parameters: Parameters
    data: list[Any] | None = None


class RequestOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: Parameters


class RequestBody(BaseModel):
    """The JSON of an inference request. Members that the protocol does not name are ignored."""

    model_config = ConfigDict(extra="ignore")
    id: str = ""
    parameters: Parameters
    inputs: list[RequestInput] = Field(max_length=_MOST_TENSORS)
    outputs: list[RequestOutput] = Field(default_factory=list, max_length=_MOST_TENSORS)


def header_length_of(value: bytes | None, size: int) -> int | None:
    """Return how many bytes of a body of `size` are JSON, by Inference-Header-Content-Length.

    None without the header: all are. Raises `InvalidInferError`.
    """
    if value is None:
        return None
    if not (value.isdigit() and len(value) <= len(str(size)) and int(value) <= size):
        raise InvalidInferError(
            f"Inference-Header-Content-Length is {shortened(value)!r}; it must be a whole number "
            f"of bytes, at most the body's {size}"
        )
    return int(value)


def decode(
    body: bytes, header_length: int | None, model: ServedModel, max_images: int
) -> InferRequest:
    """Read the body of a request. Its binary tensors are views of it.

    With a header length of 0 the body is the only input's data, of one image. Raises
    `MalformedJsonError`, `InvalidInferError` or `InvalidTensorError`.
    """
    height, width = model.contract.preprocessing.input_size
    if header_length == 0:
        return InferRequest(
            [InputTensor(INPUT_NAME, UINT8, (1, height, width, 3), body)], binary=True
        )
    text = body if header_length is None else body[:header_length]
    parse = _parse_often if len(text) <= _SMALL else _parse
    parsed = parse(text, max_images * height * width * 3 + _SPARE_ITEMS)
    binary = parsed.parameters.get("binary_data_output") is True
    rest = b"" if header_length is None else memoryview(body)[header_length:]
    return InferRequest(
        _inputs(parsed.inputs, rest),
        [_wanted(output, binary=binary) for output in parsed.outputs],
        parsed.id,
        parsed.parameters,
        binary,
    )


def encode(response: InferResponse) -> tuple[bytes, int | None]:
    """Return an answer's body and, if tensors follow in binary, the length of its JSON."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output in response.outputs:
        shown: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if output.binary:
            blobs.append(output.raw())
            shown["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            shown["data"] = output.elements()
        outputs.append(shown)
    members: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        members["id"] = response.id
    text = to_json(members | {"outputs": outputs})
    if not blobs:
        return text, None
    return b"".join([text, *blobs]), len(text)


def _parse(text: bytes, most: int) -> RequestBody:
    # Counted before parsing, since millions of small items would take gigabytes. Of a tensor, there
    # are never more lists than numbers, and base64 has none of these characters.
    many = text.count(b"{") > _SPARE_ITEMS or max(text.count(b","), text.count(b"[")) > most
    if many:
        raise MalformedJsonError(f"the JSON has too many items; expected {_FORM}")
    try:
        return RequestBody.model_validate_json(text.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors()[0]
        where = shortened(".".join(str(part) for part in first["loc"]))
        raise MalformedJsonError(
            f"{where + ': ' if where else ''}{what_is_wrong(first)}; expected {_FORM}"
        ) from error


_parse_often = lru_cache(maxsize=64)(_parse)


def _inputs(inputs: list[RequestInput], rest: Raw) -> list[InputTensor]:
    """Return the inputs, with their parts of the binary data."""
    sizes = [_binary_size(tensor) for tensor in inputs]
    parts = iter(split(rest, [size for size in sizes if size is not None]))
    return [
        InputTensor(
            tensor.name,
            tensor.datatype,
            tensor.shape,
            (tensor.data or []) if size is None else next(parts),
            tensor.parameters,
        )
        for tensor, size in zip(inputs, sizes, strict=True)
    ]


def _binary_size(tensor: RequestInput) -> int | None:
    """Return the size of an input's binary data, None if its data is in the JSON."""
    check_parameters(tensor.parameters)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise InvalidInferError(
                f"input {shortened(tensor.name)} has neither data nor binary_data_size"
            )
        return None
    if tensor.data is not None:
        raise InvalidInferError(
            f"input {shortened(tensor.name)} has both data and binary_data_size"
        )
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidInferError(
            f"binary_data_size of input {shortened(tensor.name)} must be a whole number of bytes"
        )
    return size


def _wanted(output: RequestOutput, *, binary: bool) -> WantedOutput:
    check_parameters(output.parameters)
    own = output.parameters.get("binary_data")
    return WantedOutput(
        output.name,
        own if isinstance(own, bool) else binary,
        classes_wanted(output.parameters),
    )
