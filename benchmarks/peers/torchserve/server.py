"""Makes TorchServe's model archive of handler.py, and starts TorchServe with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.peers.work import free_port, program, run_program, task

_HERE = Path(__file__).parent


def main() -> None:
    """Write archive and settings into the current folder, and become `torchserve`."""
    given = task()
    Path("model.yaml").write_text(
        f"minWorkers: {given.cores}\nmaxWorkers: {given.cores}\n"
        f"batchSize: {given.max_batch}\nmaxBatchDelay: {given.max_delay_ms}\n"
    )
    Path("store").mkdir()
    subprocess.run(
        [
            program("torch-model-archiver"), "--model-name", "classify", "--version", "1",
            "--handler", _HERE / "handler.py", "--config-file", "model.yaml",
            "--export-path", "store",
        ],
        check=True,
    )  # fmt: skip
    settings = {
        "inference_address": f"http://127.0.0.1:{given.port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",  # a Python process every minute, beside the load
        "async_logging": "true",
        "load_models": "classify.mar",
    }
    Path("config.properties").write_text(
        "".join(f"{name}={value}\n" for name, value in settings.items())
    )
    # Java has no use for TMPDIR, and its file with the process id is in the temporary folder.
    os.environ["TEMP"] = str(Path.cwd())
    run_program(
        "torchserve", "--start", "--foreground", "--ncs", "--model-store", "store",
        "--ts-config", "config.properties", "--log-config", str(_HERE / "log4j2.xml"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
