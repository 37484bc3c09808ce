"""Starts the servers of `simulated_server.py`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from local_server import Running, serving

_SERVER = str(Path(__file__).with_name("simulated_server.py"))


def serving_simulated(
    kind: str, latencies: Mapping[int, float], flags: Sequence[str]
) -> AbstractContextManager[Running]:
    """Start a server of that kind, as `local_server.serving` does; latencies are ms by size."""
    text = ",".join(f"{size}:{ms:g}" for size, ms in latencies.items())
    return serving(kind, [sys.executable, _SERVER, kind, text, *flags])
