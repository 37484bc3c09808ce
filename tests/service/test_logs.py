"""Logs: one line for each event, whoever logs it, and ids that are safe in them."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from service.logs import LogWriter, configure_logs, request_id

QUIETED = ("PIL",)


@pytest.fixture
def configure(monkeypatch):
    """`configure_logs`, whose effect on the whole process ends with the test."""
    monkeypatch.setattr(logging.root, "handlers", [])
    levels = {name: logging.getLogger(name).level for name in ("root", *QUIETED)}
    yield configure_logs
    structlog.reset_defaults()
    logging.captureWarnings(False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines(capsys) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_line_of_json_on_stderr(configure, capsys):
    configure("json", "info")
    structlog.get_logger("any").info("request", status=200, path="/a\nb", name=Path("x"), raw=b"\0")
    (line,) = lines(capsys)
    assert datetime.fromisoformat(str(line.pop("timestamp"))).tzinfo == UTC
    assert line["level"] == "info"
    assert (line["event"], line["status"], line["path"]) == ("request", 200, "/a\nb")


def test_a_traceback_is_part_of_its_line(configure, capsys):
    configure("json", "info")
    try:
        int("a\ndefect")
    except ValueError as error:
        structlog.get_logger("any").error("internal_error", exc_info=error)
        logging.getLogger("uvicorn.error").exception("from a library")
    for line in lines(capsys):
        assert line["level"] == "error"
        assert "Traceback" in str(line["exception"])
        assert "ValueError: invalid literal" in str(line["exception"])


def test_records_of_libraries_have_the_same_shape(configure, capsys):
    """Uvicorn and asyncio log through the standard library."""
    configure("json", "info")
    logging.getLogger("uvicorn.error").warning("late by %d s", 5)
    logging.getLogger("uvicorn.error").info("Started server process")
    (line,) = lines(capsys)
    assert (line["event"], line["level"]) == ("late by 5 s", "warning")
    assert set(line) == {"event", "level", "timestamp"}


def test_warnings_of_libraries_are_lines_too(configure, capsys):
    """Python would print them over two lines that are no JSON."""
    configure("json", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("deprecated", stacklevel=1)
    (line,) = lines(capsys)
    assert line["level"] == "warning"
    assert "deprecated" in str(line["event"])


def test_what_libraries_find_wrong_with_a_requests_data_is_not_logged(configure, capsys):
    """Clients could fill the log; the request's own line has the cause."""
    configure("json", "info")
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
    assert lines(capsys) == []


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_less_severe_events_than_the_level_are_dropped(configure, capsys, level, logged):
    configure("json", level)
    log = structlog.get_logger("any")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("event")
    assert [line["level"] for line in lines(capsys)] == logged


def test_auto_writes_json_where_stderr_is_no_terminal(configure, capsys):
    configure("auto", "info")
    structlog.get_logger("any").info("hello")
    assert lines(capsys)[0]["event"] == "hello"


def test_auto_writes_text_to_a_terminal(configure, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure("auto", "info")
    structlog.get_logger("any").info("hello", status=200)
    text = capsys.readouterr().err
    assert not text.startswith("{")
    assert "hello" in text
    assert "\x1b[" in text, "in colour"


def test_a_client_can_not_send_control_characters_to_a_terminal(configure, capsys):
    configure("text", "info")
    structlog.get_logger("any").info("request", path="/\x1b[2J\x07", model="a\nfake line")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


def test_a_traceback_in_text_does_not_show_variables(configure, capsys):
    """They hold images, and the default would show them where `rich` is installed."""
    configure("text", "info")
    secret = "the client's " + "image"
    try:
        secret.index("x")
    except ValueError:
        structlog.get_logger("any").exception("internal_error")
        logging.getLogger("uvicorn.error").exception("from a library")
    text = capsys.readouterr().err
    assert text.count("ValueError: substring not found") == 2
    assert "the client's image" not in text


@pytest.mark.parametrize("offered", [b"a", b"abc-123.X:y_z", b"0" * 128])
def test_a_well_formed_id_is_kept(offered):
    assert request_id(offered) == offered.decode()


@pytest.mark.parametrize(
    "offered",
    [None, b"", b"0" * 129, b"-a", b"a b", b"a\n", b"a\r\nX: y", b"\xff", b'"', b"a;b", b"a/b"],
)
def test_any_other_id_is_replaced(offered):
    assert re.fullmatch(r"[0-9a-f]{32}", request_id(offered))


def test_made_ids_are_all_different():
    assert len({request_id(None) for _ in range(1000)}) == 1000


@given(offered=st.binary(max_size=140) | st.text("aZ09._:-\n", max_size=140).map(str.encode))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_id_holds_what_could_break_a_header_or_a_line(offered):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", request_id(offered))


class Reader(io.StringIO):
    """A log's file that can be blocked, or fail once."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.fail_next = False

    def write(self, text: str) -> int:
        assert self.open.wait(20)
        if self.fail_next:
            self.fail_next = False
            raise OSError("no space left on device")
        return super().write(text)


def test_the_writer_loses_no_line_and_keeps_each_writers_order():
    reader = Reader()
    writer = LogWriter(reader)

    def write(name: int) -> None:
        for number in range(300):
            writer.write(f"{name} {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(20)
    written = reader.getvalue().splitlines()
    assert len(written) == 1200
    for name in range(4):
        own = [line for line in written if line.startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(300)]


def test_what_finds_no_room_is_dropped_and_counted():
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader, room=3)
    for number in range(20):
        writer.write(f"{number}\n")
    reader.open.set()
    writer.close(20)
    lines = reader.getvalue().splitlines()
    dropped = sum(json.loads(line)["count"] for line in lines if line.startswith("{"))
    assert dropped + sum(not line.startswith("{") for line in lines) == 20
    assert dropped > 0


def test_a_reader_that_does_not_read_holds_up_neither_writing_nor_closing():
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader)
    writer.write("waits\n")
    writer.close(0.05)
    assert reader.getvalue() == ""
    reader.open.set()


def test_a_write_that_fails_costs_only_its_own_lines():
    reader = Reader()
    writer = LogWriter(reader)
    reader.fail_next = True
    writer.write("lost\n")
    while reader.fail_next:
        pass
    writer.write("kept\n")
    writer.close(20)
    assert reader.getvalue() == "kept\n"
