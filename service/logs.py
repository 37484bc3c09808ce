"""Structured logs: one line of JSON, or of text on a terminal, for each event."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from typing import Literal

import structlog

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")

# These libraries log what is wrong with a request's data; the request's own line says it already.
_OF_EACH_BAD_REQUEST = ("PIL", "python_multipart")


def configure_logs(log_format: Literal["auto", "json", "text"], level: str) -> None:
    """Send this package's events and the standard library's records (uvicorn's) to stderr."""
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [_text_renderer()]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    for name in _OF_EACH_BAD_REQUEST:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _text_renderer() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # A client's control characters must not reach the terminal.
        repr_native_str=True,
        # The default would print local variables, if `rich` happens to be installed.
        exception_formatter=structlog.dev.plain_traceback,
    )


def request_id(offered: bytes | None) -> str:
    """Take the client's id when it is well formed, else make one.

    An id goes into headers and logs: up to 128 letters, digits and `._:-`, nothing else.
    """
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered.decode("ascii")
    return secrets.token_hex(16)
