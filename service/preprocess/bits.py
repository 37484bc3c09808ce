"""Bits of a header, one field after the other."""

from __future__ import annotations

from service.preprocess.encoded import truncated


class Bits:
    """Bits from the highest of the first byte on. Raises `TruncatedImageError` behind the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise truncated()
        return self._value >> self._left & (1 << count) - 1

    def take_counted(self) -> int:
        """Return a number whose length is told by zeros before it (Exp-Golomb, `ue` and `uvlc`)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
