"""What may be gone through of one HEIF file: one budget for all its boxes, lists and frames.

Items share properties and refer to one another, so a limit for each of them is none for the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from service.preprocess.encoded import MAX_PIECES, corrupt

_BYTES_PER_PIECE = 400  # more pieces than MAX_PIECES only in a file that is that much larger
# Encoders write one for all pictures of a size: for the tiles, for alpha, for a thumbnail.
_MAX_HEADERS = 16

Size = tuple[int, int]
"""Width and height."""


@dataclass
class Budget:
    """What is left to go through in Python, some microseconds a piece."""

    pieces: int
    _headers: dict[bytes, Size] = field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes) -> Budget:
        """Return the budget of a file."""
        return cls(MAX_PIECES + len(data) // _BYTES_PER_PIECE)

    def take(self, count: int = 1) -> None:
        """Go through so many pieces. Raises `CorruptImageError` where they are far too many."""
        self.pieces -= count
        if self.pieces < 0:
            raise corrupt("it is in far too many pieces")

    def header_size(self, header: bytes, parse: Callable[[bytes], Size]) -> Size:
        """Return the size that a header of coded frames tells, each of which is parsed once.

        Raises `CorruptImageError` where there are more different ones than any encoder writes.
        """
        if header not in self._headers:
            if len(self._headers) >= _MAX_HEADERS:
                raise corrupt(f"its frames have more than {_MAX_HEADERS} different headers")
            self._headers[header] = parse(header)
        return self._headers[header]
