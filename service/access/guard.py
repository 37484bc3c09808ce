"""Judges a request's key."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from service.access.keys import ApiKey, digest_of, read_keys
from service.access.rate import TokenBucket
from service.access.scopes import Scope
from service.errors import ForbiddenError, KeyFileError, RateLimitedError, UnauthorizedError
from service.watched import WatchedFiles

_SCHEME = "bearer "
_MOST_CHARACTERS = 512  # of a header; a key has at most 108
_NOBODY = bytes(32)

_log = structlog.get_logger(__name__)


class Guard:
    """The keys in force, on the event loop; `reload` may be called on any thread.

    `count` is told the name of the key and what became of each request.
    """

    def __init__(
        self,
        path: Path,
        count: Callable[[str, str], None],
        forget: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the keys; raises `KeyFileError`."""
        self._path, self._count, self._forget, self._clock = path, count, forget, clock
        self.files = WatchedFiles(path)
        self._entries = self._with(read_keys(path), {})

    def admit(self, authorization: bytes | None, scope: Scope) -> str:
        """Return the name of the key in an Authorization header, if it may do that now.

        Raises `UnauthorizedError`, `ForbiddenError` or `RateLimitedError`.
        """
        key, bucket = self._entry(authorization)
        if scope not in key.scopes:
            self._count(key.name, "forbidden")
            has = ", ".join(sorted(key.scopes))
            raise ForbiddenError(f"this needs a key with the scope {scope}; {key.name} has: {has}")
        wait_s = 0.0 if bucket is None else bucket.wait_s()
        if wait_s > 0:
            self._count(key.name, "rate_limited")
            raise RateLimitedError(
                f"{key.name} may make {key.rate:g} requests a second; try again later",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        self._count(key.name, "admitted")
        return key.name

    def _entry(self, authorization: bytes | None) -> tuple[ApiKey, TokenBucket | None]:
        """Return the key in a header, compared in constant time. Raises `UnauthorizedError`."""
        if authorization is None:
            raise UnauthorizedError("this needs an API key: Authorization: Bearer KEY")
        text = authorization[:_MOST_CHARACTERS].decode("latin-1")
        given = text[len(_SCHEME) :].strip() if text.lower().startswith(_SCHEME) else ""
        entry = self._entries.get(given.partition(".")[0])
        # Also for a name that is not there, so that the time does not tell which are.
        matches = hmac.compare_digest(digest_of(given), entry[0].digest if entry else _NOBODY)
        if entry is None or not matches:
            raise UnauthorizedError("the API key is not valid here")
        return entry

    def reload(self) -> None:
        """Read the file again; what can't be read leaves the keys that are in force."""
        try:
            keys = read_keys(self._path)
        except KeyFileError as error:
            _log.error("api_keys_not_taken", detail=str(error))
            return
        before, self._entries = self._entries, self._with(keys, self._entries)
        for name in before.keys() - self._entries.keys():
            self._forget(name)
        _log.info("api_keys_taken", keys=len(keys))

    def _with(
        self, keys: tuple[ApiKey, ...], before: Mapping[str, tuple[ApiKey, TokenBucket | None]]
    ) -> dict[str, tuple[ApiKey, TokenBucket | None]]:
        """Return the entries of keys; a key whose rate stays keeps what it has used of it."""
        entries = {}
        for key in keys:
            bucket = None if key.rate is None else TokenBucket(key.rate, self._clock)
            if key.name in before and before[key.name][0].rate == key.rate:
                bucket = before[key.name][1]
            entries[key.name] = key, bucket
        return entries
