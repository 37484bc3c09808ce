"""Starts MLServer with model.py."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.work import free_port, run_program, task


def main() -> None:
    """Write the settings into the current folder, and become `mlserver start`."""
    given = task()
    server = {
        "host": "127.0.0.1",
        "http_port": given.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,  # so that the handler and its batches are in this process
        "debug": False,
    }
    model = {
        "name": "classifier",
        "implementation": "benchmarks.peers.mlserver.model.Classifier",
        "max_batch_size": given.max_batch,
        "max_batch_time": given.max_delay_ms / 1000,
    }
    Path("settings.json").write_text(json.dumps(server))
    Path("model-settings.json").write_text(json.dumps(model))
    run_program("mlserver", "start", ".")


if __name__ == "__main__":
    main()
