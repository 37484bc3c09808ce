"""API keys and the file that has their hashes.

A key is `NAME.SECRET`, the secret 256 random bits: no dictionary has it, so a plain SHA-256 is
enough, which costs a request nothing. A line of the file is a name, the hash, scopes and maybe a
rate; the key itself is nowhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from service.access.scopes import GIVEN, Scope
from service.errors import KeyFileError

MOST_KEYS = 1000
_MOST_BYTES = 2**20
_MOST_RATE = 1_000_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_RATE = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the file has it."""

    name: str
    digest: bytes
    """SHA-256 of the key."""
    scopes: frozenset[Scope]
    rate: float | None = None
    """Requests in a second; None: any number."""

    def line(self) -> str:
        """Return the line of the file."""
        scopes = ",".join(scope for scope in GIVEN if scope in self.scopes)
        rate = "" if self.rate is None else f" {Decimal(repr(self.rate)).normalize():f}"
        return f"{self.name} sha256:{self.digest.hex()} {scopes}{rate}"


def new_key(name: str, scopes: Sequence[Scope], rate: float | None) -> tuple[str, ApiKey]:
    """Return a key, which is stored nowhere, and what is known of it."""
    key = f"{name}.{secrets.token_urlsafe(32)}"
    return key, ApiKey(name, digest_of(key), frozenset(scopes), rate)


def digest_of(key: str) -> bytes:
    """Return the hash of a key."""
    return hashlib.sha256(key.encode()).digest()


def is_key_name(text: str) -> bool:
    """Return whether a key can have that name."""
    return _NAME.fullmatch(text) is not None


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a key file. Raises `KeyFileError`, which names the line but shows nothing of it."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(content) > _MOST_BYTES:
        raise KeyFileError(f"{path}: is larger than {_MOST_BYTES} bytes")
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _key_in(line)
        except ValueError as error:
            raise KeyFileError(f"{path}, line {number}: {error}") from None
        if key.name in keys:
            raise KeyFileError(f"{path}, line {number}: the name {key.name} was there before")
        keys[key.name] = key
    if len(keys) > MOST_KEYS:
        raise KeyFileError(f"{path}: has {len(keys)} keys; {MOST_KEYS} at most are allowed")
    return tuple(keys.values())


def _key_in(line: str) -> ApiKey:
    fields = line.split()
    if len(fields) not in {3, 4}:
        raise ValueError("must be NAME sha256:HASH SCOPES [RATE], as `resnet-serve key` prints it")
    name, hashed, scopes, *rate = fields
    if not is_key_name(name):
        raise ValueError("a name is 1 to 64 letters, digits and `_-`, not beginning with `_-`")
    if (found := _HASH.fullmatch(hashed)) is None:
        raise ValueError("the hash must be sha256: and 64 hexadecimal digits in small letters")
    digest = bytes.fromhex(found[1])
    return ApiKey(name, digest, scopes_in(scopes), rate_in(rate[0]) if rate else None)


def scopes_in(text: str) -> frozenset[Scope]:
    """Return the scopes in a list with commas. Raises `ValueError`."""
    given = text.split(",")
    if unknown := [scope for scope in given if scope not in GIVEN]:
        raise ValueError(f"there is no scope {unknown[0]!r}; allowed: {', '.join(GIVEN)}")
    return frozenset(Scope(scope) for scope in given)


def rate_in(text: str) -> float:
    """Return a rate. Raises `ValueError`."""
    if not _RATE.fullmatch(text) or not 0 < float(text) <= _MOST_RATE:
        raise ValueError(f"a rate is requests a second, above 0 and at most {_MOST_RATE}")
    return float(text)
