"""Recognises what a file is by its content, not its name. Nothing is run, and little is read."""

from __future__ import annotations

import errno
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

Kind = Literal["safetensors", "torch", "onnx", "text", "other", "unknown"]

LEGACY = bytes.fromhex("6cfc9c46f9206aa85019")
"""The magic number of torch.save's old format, as encoded by pickle protocol 2 and later."""

_LEGACY_TEXT = f"L{int.from_bytes(LEGACY, 'little')}L\n.".encode()  # encoded by protocols 0 and 1
_BARE_TEXT = re.compile(rb"\((?:dp|lp)\d|[}\]]q\x00|c[\w.]+\n[\w.]+\n")  # in those protocols
_ONNX_AS_TEXT = re.compile(
    r"(?:ir_version|opset_import|graph|producer_name|metadata_props)\s*[:{]"  # protobuf's text
    r"|<\s*ir_version\s*:"  # onnx's own
    r'|\{(?=.*"(?:ir_?version|opset_?import)")(?=.*"graph")',  # JSON
    re.DOTALL | re.IGNORECASE,
)
_BEGIN = 4096
_SHOWN = 60  # characters of a text
_PROTOCOLS = {bytes([0x80, protocol]) for protocol in range(6)}  # first bytes of pickles
_NO_ZIP = (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, struct.error)
"""What `zipfile` raises for a damaged central directory, in addition to `OSError`."""

_SHOWN_NAMES = 3  # entries of a zip file
_LARGEST_HEADER = 100_000_000  # bytes, in safetensors
_FIELDS = 32  # examined in a protocol buffer

_STATE = "save the network's state_dict() alone"
_AS_ONNX = "save the network as ONNX, which `resnet-export adopt` takes"
_PERHAPS = "perhaps a failed download"
_AS_WEIGHTS = "`resnet-export export` takes it as --weights"

_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", f"is an HDF5 file, as Keras writes it; {_AS_ONNX}"),
    (4, b"TFL3", f"is a TensorFlow Lite file; {_AS_ONNX}"),
    (0, b"GGUF", f"is a GGUF file; {_STATE}"),
    (0, b"\x93NUMPY", f"is a single NumPy array; {_STATE}"),
    (0, b"\x1f\x8b", "is compressed by gzip; unpack it first"),
    (0, b"BZh", "is compressed by bzip2; unpack it first"),
    (0, b"\xfd7zXZ\0", "is compressed by xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (257, b"ustar", "is a tar archive; unpack it first"),
)
"""Offset, magic bytes, and what to report."""

_ZIPPED: tuple[tuple[set[str], Kind, str], ...] = (
    ({"constants.pkl"}, "other", f"is a TorchScript program, which is code; {_STATE}"),
    ({"archive_format"}, "other", f"is a torch.export program; {_STATE}"),
    ({"data.pkl"}, "torch", f"is a torch.save file; {_AS_WEIGHTS}"),
    ({"metadata.json", "config.json"}, "other", f"is a Keras file; {_AS_ONNX}"),
)
"""Names in zip files, without folders, the kind, and what to report."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's kind, and what to report, after its name, if another kind is expected."""

    kind: Kind
    told: str


def content_of(path: Path) -> Content:
    """Recognise a file by its first bytes or, for a zip file, its entries. Raises `OSError`."""
    with path.open("rb") as file:
        begin = file.read(_BEGIN)
        if begin[:4] == b"PK\x03\x04" or begin[:4] == b"PK\x05\x06":
            return _zipped(file)
        if _is_safetensors(begin):
            return Content("safetensors", f"is a safetensors file; {_AS_WEIGHTS}")
        if LEGACY in begin[:64] or begin.startswith(_LEGACY_TEXT):
            return Content("torch", f"is a torch.save file; {_AS_WEIGHTS}")
        if told := _other(begin):
            return Content("other", told)
        if told := _text(begin):
            return Content("text", told)
        return _protocol_buffer(file)


def _is_safetensors(begin: bytes) -> bool:
    """Return whether it begins with a JSON header's length and the header; it may be truncated."""
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= _LARGEST_HEADER


def _other(begin: bytes) -> str:
    for place, mark, told in _MARKS:
        if begin[place : place + len(mark)] == mark:
            return told
    if not begin:
        return "is empty"
    if begin[:2] in _PROTOCOLS:
        return _bare_pickle(str(begin[1]))
    if _BARE_TEXT.match(begin):
        return _bare_pickle("0 or 1")
    if not begin.strip(b"\0"):
        return f"begins with {len(begin)} zero bytes and is of unknown kind, {_PERHAPS}"
    return ""


def _bare_pickle(protocol: str) -> str:
    return (
        f"is a bare pickle (protocol {protocol}), and reading it could run code; save it with "
        "torch.save"
    )


def _text(begin: bytes) -> str:
    """Return what kind of text it is; empty if it is not text."""
    try:
        text = begin.decode("utf-8-sig", "strict" if len(begin) < _BEGIN else "ignore").strip()
    except UnicodeDecodeError:
        return ""
    if any(ord(character) < 32 and character not in "\t\r\n\f" for character in text):
        return ""
    return _kind_of_text(text)


def _kind_of_text(text: str) -> str:
    if text.startswith("version https://git-lfs.github.com/"):
        return "is a Git LFS pointer instead of the file; `git lfs pull` fetches the file"
    if _ONNX_AS_TEXT.match(text):
        return (
            "is ONNX as text; save it in the usual binary form, as onnx.save does if the name ends "
            "in .onnx"
        )
    if text.startswith("<"):
        is_page = re.search(r"<(?:!doctype\s+)?(?:html|head|body)\b", text, re.IGNORECASE)
        return f"is {'a web page' if is_page else 'XML'}, {_PERHAPS}"
    if text.startswith(("{", "[")):
        if '"weight_map"' in text:
            return f"is an index of parameters in several files; {_STATE}, in one file"
        return f"is JSON, {_PERHAPS}: {shown(text)}"
    return f"is text, {_PERHAPS}: {shown(text)}"


def shown(text: str, most: int = _SHOWN) -> str:
    """Return text from a file on one printable line, cut to `most` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else f"{line[:most]}..."


def _zipped(file: IO[bytes]) -> Content:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (*_NO_ZIP, OSError) as error:
        # EINVAL comes from an offset before the file's beginning, which the content gives.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        what = "the list of its contents, at its end, is missing or broken"
        return Content("other", f"is a damaged zip file: {what}, {_PERHAPS}")
    ends = {name.rpartition("/")[2] for name in names}
    for contained, kind, told in _ZIPPED:
        if contained <= ends:
            return Content(kind, told)
    if names and all(name.endswith(".npy") for name in names):
        return Content("other", f"is a NumPy npz file; {_STATE} with torch.save or as safetensors")
    more = ", ..." if len(names) > _SHOWN_NAMES else ""
    listed = f", with {', '.join(map(shown, names[:_SHOWN_NAMES]))}{more}" if names else ""
    return Content("other", f"is a zip file that torch.save did not write{listed}")


def _protocol_buffer(file: IO[bytes]) -> Content:
    """Recognise ONNX and TensorFlow files, which have no magic bytes, by their field numbers."""
    seen: dict[int, int | bytes] = {}
    for number, value in _fields(file):
        seen.setdefault(number, value)
        if number not in {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}:  # the fields of ONNX
            break
        if number == 7 and isinstance(value, bytes) and isinstance(seen.get(1), int):
            return Content(
                "onnx", "is an ONNX file; `resnet-export adopt` makes a model file from it"
            )
    version, second = seen.get(1), seen.get(2)
    # In ONNX these would be its first version, which is not written any more, and a name.
    is_saved = version == 1 and isinstance(second, bytes) and second[:1] in {b"\n", b"\x12"}
    is_graph = isinstance(version, bytes) and re.match(rb"\n.[\w./-]+\x12.\w+", version, re.DOTALL)
    if is_saved or is_graph:
        return Content("other", f"is a TensorFlow file; {_AS_ONNX}")
    return Content("unknown", "is of unknown kind or damaged")


def _fields(file: IO[bytes]) -> Iterator[tuple[int, int | bytes]]:
    """Yield numbers and values of a protocol buffer's first fields; long values are cut."""
    file.seek(0)
    for _ in range(_FIELDS):
        tag = _varint(file)
        value = _varint(file)
        if tag is None or value is None:
            return
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2:
            place = file.tell()
            yield tag >> 3, file.read(min(value, 64))
            if value >= 1 << 40:  # larger than any file
                return
            file.seek(place + value)
        else:
            return


def _varint(file: IO[bytes]) -> int | None:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    return None
