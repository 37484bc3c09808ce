"""Which version of a model answers the requests that name none."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_LATEST = "latest"
_SHARE = re.compile(r"([1-9][0-9]{0,8}):([1-9][0-9]{0,5})")
_PINNED = re.compile(r"[1-9][0-9]{0,8}")
_FORMS = "must be latest, a version as in 2, or shares as in 1:90,2:10"
_DRAWN_BITS = 64


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The share of each version, in any unit; without any, the latest version answers."""

    shares: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """Read `latest`, `2` or `1:90,2:10`. Raises `ValueError`, saying what is allowed."""
        parts = [part.strip() for part in text.split(",")]
        if parts == [_LATEST]:
            return cls()
        if len(parts) == 1 and _PINNED.fullmatch(parts[0]):
            return cls(MappingProxyType({int(parts[0]): 1}))
        found = [_SHARE.fullmatch(part) for part in parts]
        shares = {int(each[1]): int(each[2]) for each in found if each}
        if len(shares) != len(parts):
            raise ValueError(_FORMS)
        return cls(MappingProxyType(shares))

    def __str__(self) -> str:
        if not self.shares:
            return _LATEST
        if len(self.shares) == 1:
            return str(next(iter(self.shares)))
        return ",".join(f"{version}:{share}" for version, share in self.shares.items())

    def of(self, versions: Collection[int]) -> Mapping[int, float]:
        """Return the share of each version that answers, of those there are; they sum to 1.

        Shares of versions that are not there go to the others. Empty if none is there.
        """
        if not self.shares:
            return {max(versions): 1.0} if versions else {}
        present = {
            version: self.shares[version] for version in sorted(self.shares) if version in versions
        }
        total = sum(present.values())
        return {version: share / total for version, share in present.items()}

    def choose(self, versions: Collection[int], name: str, request_id: str | None) -> int | None:
        """Return the version that answers a request; None if none of those wanted is there.

        The same request id gets the same version, so that a retry is answered by the one that
        answered before.
        """
        shares = self.of(versions)
        if len(shares) <= 1:
            return next(iter(shares), None)
        left = draw(name, request_id)
        for version, share in shares.items():
            left -= share
            if left < 0:
                return version
        return max(shares)  # what is left is a rounding error


def draw(purpose: str, request_id: str | None) -> float:
    """Return a number from 0 to below 1 that depends on nothing else; without an id, any number."""
    if request_id is None:
        return random.random()  # noqa: S311 - spreads load, and protects nothing
    text = f"{purpose}\n{request_id}".encode()
    digest = hashlib.blake2b(text, digest_size=_DRAWN_BITS // 8).digest()
    return float(int.from_bytes(digest, "big")) / 2.0**_DRAWN_BITS
