"""How the samples of a TIFF are compressed: the supported compressions and their options."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.preprocess import tiff_tags as tags
from service.preprocess.encoded import corrupt, unsupported
from service.preprocess.jpeg_structure import read_tables
from service.preprocess.tiff_tags import Directory

NONE, _LZW, JPEG, PACKBITS = 1, 5, 7, 32773
GROUP3, GROUP4 = 3, 4
DEFLATE = {8, 32946}
CCITT = {2, GROUP3, GROUP4, 32771}
_WITH_PREDICTOR = {_LZW, *DEFLATE, 34925, 50000}  # LZW, deflate twice, LZMA, Zstandard
COMPRESSIONS = {NONE, JPEG, PACKBITS, *CCITT, *_WITH_PREDICTOR}
"""Supported values of the compression tag."""

OTHER_COMPRESSIONS = {
    6: "old-style JPEG", 32809: "ThunderScan", 34676: "SGI LogLuv", 34712: "JPEG 2000",
    34887: "LERC", 50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip
"""Names of unsupported ones: libtiff is built without them or would interpret tags itself."""

ACCEPTED = "none, CCITT, PackBits, LZW, deflate, LZMA, Zstandard and 8-bit JPEG are"
"""Supported compressions, for messages."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What libtiff needs to know to unpack samples."""

    compression: int
    bits: int  # per sample
    order: str  # "<" or ">", as in struct
    is_ycbcr: bool
    options: dict[int, int]  # tags for CCITT
    tables: bytes = field(repr=False)  # for JPEG


def read_packing(directory: Directory, count: int, bits: int, *, is_ycbcr: bool) -> Packing:
    """Read how samples are compressed, given that each pixel of a plane has `count` of them.

    Raises `RequestError` if the compression does not allow such samples or is not supported.
    """
    compression = directory.number(tags.COMPRESSION, NONE)
    if compression in CCITT and (bits != 1 or count != 1):
        raise corrupt("its compression requires one bit per pixel")
    if compression == JPEG and (bits != 8 or count not in {1, 3, 4}):
        raise unsupported(f"TIFFs of JPEGs with {count} samples of {bits} bits", ACCEPTED)
    tables = directory.blob(tags.JPEG_TABLES) if compression == JPEG else b""
    return Packing(
        compression=compression,
        bits=bits,
        order=directory.order,
        is_ycbcr=is_ycbcr,
        options=_options(directory, compression),
        tables=read_tables(tables),
    )


def read_predictor(directory: Directory, packing: Packing) -> int:
    """Return 2 if the samples are stored as differences, otherwise 1."""
    predictor = directory.number(tags.PREDICTOR, 1)
    if predictor == 1 or packing.compression not in _WITH_PREDICTOR:
        return 1
    if predictor != 2 or packing.bits not in {8, 16}:
        raise unsupported(
            f"TIFFs with {packing.bits} bits and predictor {predictor}",
            "predictor 2 with 8 or 16 bits is",
        )
    return 2


def _options(directory: Directory, compression: int) -> dict[int, int]:
    wanted = {GROUP3: tags.T4_OPTIONS, GROUP4: tags.T6_OPTIONS}.get(compression)
    return {wanted: directory.number(wanted, 0)} if wanted in directory.entries else {}
