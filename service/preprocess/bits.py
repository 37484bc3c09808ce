"""Bits of a header, one field after the other."""

from __future__ import annotations

from service.preprocess.encoded import corrupt, truncated

_MOST_ZEROS = 32  # before a number that is counted


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
        """Return a number whose length is told by zeros before it (Exp-Golomb, `ue` and `uvlc`).

        Raises `CorruptImageError` if it is longer than any number may be.
        """
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > _MOST_ZEROS:
                raise corrupt("a number in the header of its frames has no end")
        return (1 << zeros) - 1 + self.take(zeros)
