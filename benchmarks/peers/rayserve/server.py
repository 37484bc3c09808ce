"""Starts Ray Serve with app.py."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.work import run_program


def main() -> None:
    """Set what Ray Serve reads when it is imported, and become the program that serves.

    Its documentation has the first two for high throughput; HAProxy (which comes with Ray) takes
    the place of a proxy in Python. On one machine they doubled the answers a second.
    """
    folder = Path.cwd()
    os.environ |= {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # of 4, which is more than the cores of most machines
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    run_program("python", "-m", "benchmarks.peers.rayserve.app")


if __name__ == "__main__":
    main()
