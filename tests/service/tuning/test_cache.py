"""What is kept on disk: given back unchanged, or not at all, and never in the way of a start."""

from __future__ import annotations

import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from structlog.testing import capture_logs

from service.tuning import cache as cache_module
from service.tuning.cache import SCHEMA, ProfileCache
from service.tuning.parallelism import Positive

FACTS = {"model_sha256": "ab" * 32, "cpus": 2, "layouts": [[2, 1], [1, 2]], "tf32": False}


class Value(BaseModel):
    seconds: dict[int, list[Positive]]


VALUE = Value(seconds={1: [0.01, 0.011], 8: [1 / 3]})


@pytest.fixture
def folder(tmp_path):
    """Not there yet, nor is its parent."""
    return tmp_path / "cache" / "resnet-serve"


@pytest.fixture
def cache(folder):
    return ProfileCache(folder)


def the_file(folder):
    (path,) = folder.iterdir()
    return path


def test_what_is_written_is_read_again_by_another_process(cache, folder):
    assert cache.read("batches", lambda: FACTS, Value) is None
    cache.write("batches", lambda: FACTS, VALUE)
    with capture_logs() as logs:
        assert ProfileCache(folder).read("batches", lambda: dict(FACTS), Value) == VALUE
    assert logs == []
    assert json.loads(the_file(folder).read_text())["fingerprint"] == FACTS, (
        "a reader can tell what of"
    )


@pytest.mark.parametrize(
    "change",
    [{"cpus": 3}, {"model_sha256": "cd" * 32}, {"layouts": [[2, 1]]}, {"device": "other"}],
)
def test_another_fingerprint_has_another_file(cache, folder, change):
    cache.write("batches", lambda: FACTS, VALUE)
    assert cache.read("batches", lambda: FACTS | change, Value) is None
    cache.write("batches", lambda: FACTS | change, Value(seconds={1: [1.0]}))
    assert cache.read("batches", lambda: FACTS, Value) == VALUE
    assert len(list(folder.iterdir())) == 2


def test_kinds_do_not_mix(cache):
    cache.write("batches", lambda: FACTS, VALUE)
    assert cache.read("parallelism", lambda: FACTS, Value) is None


def test_a_new_schema_passes_what_an_older_one_wrote_over(cache, monkeypatch):
    cache.write("batches", lambda: FACTS, VALUE)
    monkeypatch.setattr(cache_module, "SCHEMA", cache_module.SCHEMA + 1)
    assert cache.read("batches", lambda: FACTS, Value) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"schema": SCHEMA}',
        b'{"schema": 99, "fingerprint": FACTS, "value": VALUE}',
        b'{"schema": SCHEMA, "fingerprint": {}, "value": VALUE}',
        b'{"schema": SCHEMA, "fingerprint": null, "value": VALUE}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": null}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": {"seconds": {"1": "soon"}}}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": {"seconds": {"one": [1.0]}}}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": {"seconds": {"1": [0]}}}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": {"seconds": {"1": [-1]}}}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": {"seconds": {"1": [NaN]}}}',
        b'{"schema": SCHEMA, "fingerprint": FACTS, "value": {"seconds": {"1": [Infinity]}}}',
    ],
)
def test_what_is_broken_is_told_passed_over_and_written_anew(cache, folder, content):
    cache.write("batches", lambda: FACTS, VALUE)
    content = content.replace(b"SCHEMA", str(SCHEMA).encode())
    content = content.replace(b"FACTS", json.dumps(FACTS).encode())
    content = content.replace(b"VALUE", VALUE.model_dump_json().encode())
    the_file(folder).write_bytes(content)
    with capture_logs() as logs:
        assert cache.read("batches", lambda: FACTS, Value) is None
    assert [entry["event"] for entry in logs] == ["cache_entry_ignored"]
    assert logs[0]["path"] == str(the_file(folder))
    assert "\n" not in logs[0]["detail"]
    cache.write("batches", lambda: FACTS, VALUE)
    assert cache.read("batches", lambda: FACTS, Value) == VALUE


@given(data=st.data())
@settings(max_examples=200)
def test_a_file_cut_off_or_overwritten_anywhere_never_raises(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    cache = ProfileCache(folder)
    cache.write("batches", lambda: FACTS, VALUE)
    content = bytearray(the_file(folder).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    the_file(folder).write_bytes(content)
    with capture_logs():
        kept = cache.read("batches", lambda: FACTS, Value)
    assert kept is None or isinstance(kept, Value)


def unusable(cache: ProfileCache) -> list[str]:
    """The events of two reads and two writes."""
    with capture_logs() as logs:
        for _ in range(2):
            assert cache.read("batches", lambda: FACTS, Value) is None
            cache.write("batches", lambda: FACTS, VALUE)
    return [entry["event"] for entry in logs]


def test_a_folder_that_can_not_be_made_is_told_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert unusable(ProfileCache(tmp_path / "file" / "cache")) == ["cache_unusable"]


def test_a_file_in_the_folders_place_is_told_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert unusable(ProfileCache(tmp_path / "file")) == ["cache_unusable"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_told_once(tmp_path):
    tmp_path.chmod(0o500)
    assert unusable(ProfileCache(tmp_path)) == ["cache_unusable"]


def test_a_full_disk_is_told_and_leaves_nothing_behind(cache, folder, monkeypatch):
    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with capture_logs() as logs:
        cache.write("batches", lambda: FACTS, VALUE)
    assert "No space left on device" in logs[0]["detail"]
    assert list(folder.iterdir()) == []


def test_without_a_folder_nothing_is_kept_and_nothing_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert unusable(ProfileCache(None)) == []
    assert list(tmp_path.iterdir()) == []


def test_whoever_writes_at_the_same_time_a_reader_sees_one_of_the_values(cache, folder):
    values = [Value(seconds={1: [0.5] * 200 * number}) for number in range(1, 5)]
    cache.write("batches", lambda: FACTS, values[0])
    stop = threading.Event()

    def write(value: Value) -> None:
        mine = ProfileCache(folder)
        while not stop.is_set():
            mine.write("batches", lambda: FACTS, value)

    writers = [threading.Thread(target=write, args=(value,)) for value in values]
    with capture_logs() as logs:
        for writer in writers:
            writer.start()
        seen = [cache.read("batches", lambda: FACTS, Value) for _ in range(300)]
        stop.set()
        for writer in writers:
            writer.join()
    assert all(value in values for value in seen)
    assert logs == []
    assert len(list(folder.iterdir())) == 1, "no drafts are left"
