"""Logs: one line for each event, whoever logs it and whatever it holds."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.logs import LogWriter, configure_logs

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


def lines(capsys) -> list[dict[str, Any]]:
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


def test_a_line_of_text_begins_with_how_a_request_ended(configure, capsys):
    """And has nothing that says nothing; JSON keeps every field, for programs."""
    values = {
        "request_id": "r-1", "method": "GET", "path": "/x", "client": "::1", "status": 404,
        "code": "not_found", "model": None, "images": 0, "batch_size": 0, "detail": "",
        "total_ms": 0.5,
    }  # fmt: skip
    configure("text", "info")
    structlog.get_logger("any").info("request", **values)
    _, _, told = capsys.readouterr().err.partition("request ")
    assert told.split() == [
        "status=404", "total_ms=0.5", "method='GET'", "path='/x'", "client='::1'",
        "code='not_found'", "request_id='r-1'",
    ]  # fmt: skip
    configure("json", "info")
    structlog.get_logger("other").info("request", **values)
    assert values.items() <= lines(capsys)[0].items()


def test_a_zero_that_tells_something_is_shown(configure, capsys):
    configure("text", "info")
    structlog.get_logger("any").info("stopped", unanswered=0)
    assert "unanswered=0" in capsys.readouterr().err


def test_a_client_can_not_send_control_characters_to_a_terminal(configure, capsys):
    configure("text", "info")
    structlog.get_logger("any").info("request", path="/\x1b[2J\x07", model="a\nfake line")
    logging.getLogger("library").warning("said \x1b[2J\nfake line")
    text = capsys.readouterr().err
    assert text.count("\n") == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


def test_nor_in_the_message_of_an_error(configure, capsys):
    configure("text", "info")
    try:
        int("\x1b[2J\x9b2J")
    except ValueError:
        structlog.get_logger("any").exception("internal_error")
    try:
        "".encode("/\x1b[2J")
    except LookupError:
        logging.getLogger("library").exception("failed")
    text = capsys.readouterr().err
    assert "encoding: /\\x1b[2J" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize(
    "value",
    ["/" + "x" * 60_000, b"x" * 60_000, ["x" * 60_000], {"agent": "x" * 60_000},
     Path("x" * 60_000), {"x" * 60_000: 1}],
    ids=["text", "bytes", "list", "dict", "path", "key"],
)  # fmt: skip
def test_whatever_a_client_sends_a_line_stays_short(configure, capsys, log_format, value):
    configure(log_format, "info")
    structlog.get_logger("any").info("request", sent=value, status=404)
    logging.getLogger("library").warning("got %s", value)
    logged = capsys.readouterr().err.splitlines()
    assert len(logged) == 2
    assert all("xxx..." in line and len(line) < 1000 for line in logged)
    assert "404" in logged[0]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_long_traceback_keeps_both_ends(configure, capsys, log_format):
    """The message of an error may hold a whole body."""
    configure(log_format, "info")
    try:
        dict[str, int]()["x" * 10**6 + " is the end"]
    except KeyError:
        structlog.get_logger("any").exception("internal_error")
    text = capsys.readouterr().err
    assert len(text) < 20_000
    assert "Traceback" in text
    assert "is the end" in text
    assert "characters left out" in text


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_is_no_unicode_is_spelled_out(configure, capsys, log_format):
    """As names of files and bytes may be; it must not cost the line, nor who logs it."""
    configure(log_format, "info")
    log = structlog.get_logger("any")
    log.info("loaded", path=Path("caf\udce9.onnx"), raw=b"\xff", names=["\udce9"])
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_number_of_dropped_lines_is_a_line_like_others(configure, log_format):
    """Read by whoever looks for warnings."""
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "wb", buffering=0) as file:  # noqa: PTH123
        writer = LogWriter(file, room=0)
        configure(log_format, "info", writer)
        structlog.get_logger("any").info("hello")
        line = reader.readline().decode()
        writer.close(20)
    assert "log_lines_dropped" in line
    assert "warning" in line
    if log_format == "json":
        assert json.loads(line)["count"] == 1
    else:
        assert "count=1" in line


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


def test_a_value_of_very_many_entries_is_cut(configure, capsys):
    configure("json", "info")
    structlog.get_logger("test").info(
        "many", numbers=list(range(10_000)), names={n: n for n in range(10_000)}
    )
    (line,) = lines(capsys)
    assert line["numbers"][:3] == [0, 1, 2]
    assert line["numbers"][100:] == ["... (10000 entries)"]
    assert len(line["names"]) == 100
