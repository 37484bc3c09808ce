"""Who is admitted: by key, scope and rate, and after the file has changed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from service.access.guard import Guard
from service.access.keys import ApiKey, new_key
from service.access.scopes import Scope
from service.errors import ForbiddenError, KeyFileError, RateLimitedError, UnauthorizedError


class Counted:
    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []
        self.forgotten: list[str] = []
        self.now = 100.0

    def count(self, name: str, outcome: str) -> None:
        self.outcomes.append((name, outcome))


@pytest.fixture
def counted() -> Counted:
    return Counted()


def write(path: Path, *keys: ApiKey) -> Path:
    path.write_text("".join(f"{key.line()}\n" for key in keys))
    return path


def guard_of(path: Path, counted: Counted) -> Guard:
    return Guard(path, counted.count, counted.forgotten.append, clock=lambda: counted.now)


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def test_a_key_is_admitted_to_its_scopes_alone(tmp_path, counted):
    key, known = new_key("shop", (Scope.CLASSIFY,), None)
    guard = guard_of(write(tmp_path / "keys", known), counted)
    for header in (bearer(key), b"bearer " + key.encode(), b"BEARER  " + key.encode() + b" "):
        assert guard.admit(header, Scope.CLASSIFY) == "shop"
    with pytest.raises(ForbiddenError, match="the scope admin; shop has: classify"):
        guard.admit(bearer(key), Scope.ADMIN)
    assert counted.outcomes == [("shop", "admitted")] * 3 + [("shop", "forbidden")]


def test_anything_else_is_refused_alike_and_never_repeated(tmp_path, counted):
    key, known = new_key("shop", (Scope.CLASSIFY,), None)
    guard = guard_of(write(tmp_path / "keys", known), counted)
    name, _, secret = key.partition(".")
    said = set()
    for given in (
        f"{key}x", key[:-1], f"{name}.", name, f"other.{secret}", "", ".", "é", "x" * 5000,
        known.digest.hex(),
    ):  # fmt: skip
        with pytest.raises(UnauthorizedError) as caught:
            guard.admit(b"Bearer " + given.encode(), Scope.CLASSIFY)
        said.add(str(caught.value))
    for header in (b"", b"Basic " + key.encode(), key.encode(), bearer(key) + b", " + bearer(key)):
        with pytest.raises(UnauthorizedError):
            guard.admit(header, Scope.CLASSIFY)
    with pytest.raises(UnauthorizedError, match="Authorization: Bearer KEY"):
        guard.admit(None, Scope.CLASSIFY)
    assert said == {"the API key is not valid here"}
    assert not counted.outcomes


def test_a_rate_allows_that_many_a_second_and_says_when_to_come_again(tmp_path, counted):
    key, known = new_key("trial", (Scope.CLASSIFY,), 2)
    guard = guard_of(write(tmp_path / "keys", known), counted)

    def ask(times: int) -> int:
        admitted = 0
        for _ in range(times):
            with suppress(RateLimitedError):
                guard.admit(bearer(key), Scope.CLASSIFY)
                admitted += 1
        return admitted

    assert ask(5) == 2
    counted.now += 0.5
    assert ask(5) == 1
    counted.now += 1000
    assert ask(5) == 2
    assert counted.outcomes.count(("trial", "rate_limited")) == 10


def test_less_than_one_a_second_is_a_rate_too(tmp_path, counted):
    key, known = new_key("slow", (Scope.CLASSIFY,), 0.1)
    guard = guard_of(write(tmp_path / "keys", known), counted)
    guard.admit(bearer(key), Scope.CLASSIFY)
    with pytest.raises(RateLimitedError) as caught:
        guard.admit(bearer(key), Scope.CLASSIFY)
    assert caught.value.retry_after_s == 10


def test_keys_change_with_the_file_and_what_was_used_of_a_rate_stays_used(tmp_path, counted):
    one, known_one = new_key("one", (Scope.CLASSIFY,), 1)
    two, known_two = new_key("two", (Scope.CLASSIFY,), None)
    path = write(tmp_path / "keys", known_one)
    guard = guard_of(path, counted)
    assert not guard.files.changed()
    guard.admit(bearer(one), Scope.CLASSIFY)

    write(path, known_one, known_two)
    assert guard.files.changed()
    guard.reload()
    assert guard.admit(bearer(two), Scope.CLASSIFY) == "two"
    with pytest.raises(RateLimitedError):
        guard.admit(bearer(one), Scope.CLASSIFY)

    write(path, known_two)
    guard.reload()
    with pytest.raises(UnauthorizedError):
        guard.admit(bearer(one), Scope.CLASSIFY)
    assert counted.forgotten == ["one"]


@pytest.mark.parametrize("content", ["a line that is none\n", None])
def test_a_bad_file_leaves_the_keys_that_are_in_force(tmp_path, counted, content):
    key, known = new_key("shop", (Scope.CLASSIFY,), None)
    path = write(tmp_path / "keys", known)
    guard = guard_of(path, counted)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert guard.files.changed()
    guard.reload()
    assert guard.admit(bearer(key), Scope.CLASSIFY) == "shop"
    with pytest.raises(KeyFileError):
        guard_of(path, counted)
