"""The doors that `doors.py` compares, a fixed request of each, and the programs that send it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import subprocess
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WRK, H2LOAD = "wrk", "h2load"
PACKAGES = {WRK: "wrk", H2LOAD: "nghttp2-client"}
"""The programs, and Debian's packages that have them."""

_SCRIPT = str(Path(__file__).with_name("doors.lua"))
_FRAME = struct.Struct(">BI")  # of gRPC: not compressed, and the message's length
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True)
class Door:
    """A way to ask for an image's labels; the request is the same each time.

    `goal` is the share of the first door's rate that it should reach.
    """

    name: str
    program: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    goal: float | None = None


def doors(model: str, jpeg: bytes, pixels: NDArray[np.uint8]) -> list[Door]:
    """Return the doors, each with the same image: `pixels` [H, W, 3] are those of `jpeg`.

    The first is what the others are compared with.
    """
    from service.grpc.messages import messages  # noqa: PLC0415 - after the check for programs

    shape, raw = [1, *pixels.shape], pixels.tobytes()
    tensor = {"name": "images", "datatype": "UINT8", "shape": shape}
    head = json.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    call = messages.ModelInferRequest(
        model_name=model,
        inputs=[messages.ModelInferRequest.InferInputTensor(**tensor)],
        raw_input_contents=[raw],
    ).SerializeToString()
    infer = f"/v2/models/{model}/infer"
    binary = {"Content-Type": "application/octet-stream"}
    return [
        Door("/v1/classify", WRK, "/v1/classify", jpeg, {"Content-Type": "image/jpeg"}),
        Door("V2 REST", WRK, infer, head + raw,
             binary | {"Inference-Header-Content-Length": str(len(head))}, 0.95),
        Door("V2 REST, no JSON", WRK, infer, raw,
             binary | {"Inference-Header-Content-Length": "0"}, 0.95),
        Door("V2 gRPC", H2LOAD, "/inference.GRPCInferenceService/ModelInfer",
             _FRAME.pack(0, len(call)) + call,
             {"Content-Type": "application/grpc", "TE": "trailers"}, 0.6),
    ]  # fmt: skip


def what_is_missing() -> str | None:
    """Return what to install, if a program or the extra is missing."""
    for program, package in PACKAGES.items():
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian's package {package})"
    if importlib.util.find_spec("grpc") is None:
        return "grpcio is not installed (the extra grpc)"
    return None


def send(
    door: Door, address: str, folder: Path, *, clients: int, streams: int, seconds: float
) -> dict[str, Any]:
    """Load a door; return how many `answers` came, in how many `seconds`, and the `errors`.

    Each of the clients waits for its answer before it asks again. Over gRPC, `streams` of them
    share a connection. Raises `RuntimeError` if the program fails.
    """
    body = folder / "body"
    body.write_bytes(door.body)
    headers = [f"{name}: {value}" for name, value in door.headers.items()]
    url = f"http://{address}{door.path}"
    if door.program == WRK:
        said = _run(
            [WRK, "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "-s", _SCRIPT, url, "--", str(body),
             *headers], seconds,
        )  # fmt: skip
        counted: dict[str, Any] = json.loads(said.splitlines()[-1])
        return counted
    flags = [part for header in headers for part in ("-H", header)]
    said = _run(
        [H2LOAD, "-t1", f"-c{clients // streams}", f"-m{streams}", f"-D{seconds:.0f}",
         "--warm-up-time=0", *flags, "-d", str(body), url], seconds,
    )  # fmt: skip
    return h2load_counts(said)


def h2load_counts(said: str) -> dict[str, Any]:
    """Read what h2load prints. Raises `RuntimeError` if that is not its report."""
    took = re.search(r"finished in ([\d.]+)(m?s),", said)
    requests = re.search(
        r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said
    )
    if took is None or requests is None:
        raise RuntimeError(f"h2load printed no report: {said[-500:]}")
    answers, failed, _, _ = map(int, requests.groups())  # errored and late ones have failed, too
    return {
        "answers": answers,
        "seconds": float(took[1]) / (1000 if took[2] == "ms" else 1),
        "errors": failed,
    }


def succeeded(address: str, model: str) -> int:
    """Return how many requests the server has answered with what was asked for, at all doors.

    A gRPC call's status is in trailers, which h2load does not read.
    """
    url = f"http://{address}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=_GRACE_S) as answer:
        (model_stats,) = json.load(answer)["model_stats"]
    return int(model_stats["inference_stats"]["success"]["count"])


def _run(command: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]} did not end") from error
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
