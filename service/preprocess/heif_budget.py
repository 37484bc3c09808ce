"""Limits the work of reading a HEIF file: one budget for all its boxes, lists and frames.

Items share properties and refer to one another, so a limit per item would not limit the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from service.preprocess.encoded import MAX_PIECES, corrupt

_BYTES_PER_PIECE = 400  # files may have one more than MAX_PIECES for each of these
# Encoders write one header for all pictures of a size: the tiles, alpha, a thumbnail.
_MAX_HEADERS = 16

Size = tuple[int, int]
"""Width and height."""


@dataclass
class Budget:
    """The pieces that may still be processed in Python, at some microseconds each."""

    pieces: int
    _headers: dict[bytes, Size] = field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes) -> Budget:
        """Return the budget for a file."""
        return cls(MAX_PIECES + len(data) // _BYTES_PER_PIECE)

    def take(self, count: int = 1) -> None:
        """Take `count` pieces from the budget. Raises `CorruptImageError` if it is exceeded."""
        self.pieces -= count
        if self.pieces < 0:
            raise corrupt("it has far too many pieces")

    def header_size(self, header: bytes, parse: Callable[[bytes], Size]) -> Size:
        """Return the size in a header of coded frames; each distinct header is parsed once.

        Raises `CorruptImageError` if there are more distinct ones than any encoder writes.
        """
        if header not in self._headers:
            if len(self._headers) >= _MAX_HEADERS:
                raise corrupt(f"its frames have more than {_MAX_HEADERS} different headers")
            self._headers[header] = parse(header)
        return self._headers[header]
