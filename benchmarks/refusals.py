"""Resident memory of a server across thousands of refused requests of each kind.

    python benchmarks/refusals.py [--requests N] [--only KIND]... [-- FLAGS of resnet-serve serve]
    python benchmarks/refusals.py --large [--requests N] [--only KIND]... [-- FLAGS]

A refused request must leave nothing in memory: no body, no pixels, no form. For each kind, a fresh
server receives N requests, from one client at a time and from eight at once; its resident memory
after all of them is compared with that after the first tenth. The goal is at most 10 MB more.

With `--large`, bodies of up to 30 MB come from one client: the memory after all of them and a pause
is compared with that after the first two and a pause, and the peak is shown as well.
"""

from __future__ import annotations

import argparse
import http.client
import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from arguments import count
from local_server import serving
from PIL import Image
from refusal_kinds import Refusal, leaving, near_boundaries, refusals

from service.bench.monitor import process_tree
from service.bench.text_report import table

_MOST_GROWTH_MB = 10.0
_CLIENTS = 8
_REST_S = 45.0


def _photo(image_format: str, width: int = 1500, height: int = 1000, **options: int) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 7 % 256, y * 5 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def kinds() -> Mapping[str, Refusal]:
    """Make a request of each kind, with bodies of 0.6 to 4 MB."""
    png = _photo("PNG", 900, 640, compress_level=0)
    return MappingProxyType(refusals(png, _photo("JPEG", quality=100)) | leaving(png))


def large_kinds() -> Mapping[str, Refusal]:
    """Make a request of each kind, most with a body of some 30 MB."""
    png = _photo("PNG", 3640, 2880, compress_level=0)
    third = _photo("PNG", 2000, 2000, compress_level=0)
    jpeg = _photo("JPEG", 3640, 2880, quality=100)
    return MappingProxyType(
        refusals(png, jpeg, third)
        | {"a form of near-boundaries": near_boundaries(len(png))}
        | leaving(png, third)
    )


def _post(port: int, refusal: Refusal, statuses: Counter[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(
            "POST", "/v1/classify", refusal.body, {"Content-Type": refusal.media_type}
        )
        statuses[0 if refusal.leaves else connection.getresponse().status] += 1
    finally:
        connection.close()


def _repeat(port: int, refusal: Refusal, requests: int, clients: int) -> Counter[int]:
    statuses: Counter[int] = Counter()

    def work(share: int) -> None:
        for _ in range(share):
            _post(port, refusal, statuses)

    shares = [requests // clients + (number < requests % clients) for number in range(clients)]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its descendants."""
    return sum(process.memory_info().rss for process in process_tree(pid)) / 2**20


def measure(refusal: Refusal, requests: int, flags: Sequence[str]) -> tuple[float, float, bool]:
    """Return the memory after a tenth of the requests and after all, and if all were refused."""
    program = [str(Path(sys.executable).with_name("resnet-serve")), "serve"]
    with serving("service", [*program, "--log-level", "error", *flags]) as server:
        port = int(server.url.rpartition(":")[2])
        statuses: Counter[int] = Counter()
        send: Callable[..., Counter[int]] = partial(_repeat, port, refusal)
        marks = []
        for share in (requests // 10, requests - requests // 10):
            for clients in (1, _CLIENTS):
                statuses += send(share // 2, clients)
            marks.append(resident_mb(server.pid))
    return marks[0], marks[1], set(statuses) == {refusal.status}


def measure_large(
    refusal: Refusal, requests: int, flags: Sequence[str]
) -> tuple[float, float, float, bool]:
    """Return the memory before the requests, after a rest, and at most, and if all were refused.

    A few of them come before, so that what is loaded or set up once does not count.
    """
    program = [str(Path(sys.executable).with_name("resnet-serve")), "serve"]
    with serving("service", [*program, "--log-level", "error", *flags]) as server:
        port = int(server.url.rpartition(":")[2])
        statuses = _repeat(port, refusal, 2, 1)
        time.sleep(_REST_S)
        before = resident_mb(server.pid)
        statuses += _repeat(port, refusal, requests, 1)
        time.sleep(_REST_S)
        status = Path(f"/proc/{server.pid}/status").read_text("utf-8")
        peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        return before, resident_mb(server.pid), peak, set(statuses) == {refusal.status}


def main() -> int:
    """Measure and print; return 1 when memory grew by more, or a request was not refused so."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--large", action="store_true", help="send bodies of up to 30 MB, from one client"
    )
    parser.add_argument(
        "--requests", type=count, help="requests of each kind [10000; with --large 100]"
    )
    parser.add_argument("--only", action="append", choices=[*kinds(), *large_kinds()],
                        metavar="KIND", help="kind to send; may be repeated [all]")  # fmt: skip
    parser.add_argument("flags", nargs="*", help="flags for resnet-serve serve, after --")
    arguments = parser.parse_args()
    requests = arguments.requests or (100 if arguments.large else 10_000)
    rows, bad = [], False
    for name, refusal in (large_kinds() if arguments.large else kinds()).items():
        if arguments.only and name not in arguments.only:
            continue
        if arguments.large:
            *marks, peak, refused = measure_large(refusal, requests, arguments.flags)
        else:
            *marks, refused = measure(refusal, requests, arguments.flags)
        grown = marks[1] - marks[0]
        bad |= grown > _MOST_GROWTH_MB or not refused
        verdict = "ok" if grown <= _MOST_GROWTH_MB else "short"
        row = [name, f"{marks[0]:.0f}", f"{marks[1]:.0f}", f"{grown:+.0f}"]
        rows.append([*row, *([f"{peak:.0f}"] if arguments.large else []),
                     verdict if refused else "not refused as expected"])  # fmt: skip
        print(*rows[-1], file=sys.stderr)
    columns = (
        ["MB before", f"after {requests}", "grown", "at most"]
        if arguments.large
        else [f"MB after {requests // 10}", f"after {requests}", "grown"]
    )
    print(table(["refused", *columns, ""], rows))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
