"""Reads a header bit by bit."""

from __future__ import annotations

from service.preprocess.encoded import corrupt, truncated

_MOST_ZEROS = 32  # before an Exp-Golomb number


class Bits:
    """Bits, the highest of each byte first. Raises `TruncatedImageError` beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        self._left -= count
        if self._left < 0:
            raise truncated()
        return self._value >> self._left & (1 << count) - 1

    def take_counted(self) -> int:
        """Return an Exp-Golomb number (`ue`, `uvlc`), whose leading zeros give its length.

        Raises `CorruptImageError` if it is longer than allowed.
        """
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > _MOST_ZEROS:
                raise corrupt("a number in the header of its frames is too long")
        return (1 << zeros) - 1 + self.take(zeros)
