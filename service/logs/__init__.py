"""Structured logs: one line per event, JSON or, on a terminal, text.

structlog, standard library -> configure (levels, cut values, JSON or text) -> LogWriter -> stderr
native libraries -> descriptor 2, a pipe -> relay (a separate process) -> stderr
"""

from __future__ import annotations

from service.logs.configure import configure_logs
from service.logs.ids import request_id
from service.logs.native import native_output_logged
from service.logs.writer import LogWriter

__all__ = ["LogWriter", "configure_logs", "native_output_logged", "request_id"]
