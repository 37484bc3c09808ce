"""Time and memory of decoding: honest images of every kind, and files crafted to need far more.

    python benchmarks/decoding.py [--megapixels N] [--only WORD]...

Each file is read and decoded in its own process. Memory is the process's peak above its previous
usage; it is shown with the estimate that counts against `max_decoding_bytes`, which must not be
lower. Each crafted file is compared with an honest image of the same format and as many pixels as
it has or, if it is refused, claims (at least 64 x 64). It may take twice the time plus 10 ms plus
2 ms per MB of the file, and the same memory plus 20 MB plus the file's size. The exit status is 1
if any takes more.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from arguments import positive
from decoding_honest import HONEST, photo
from decoding_hostile import HAND_MADE

from service.bench.text_report import table
from service.contract import Preprocessing
from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright, prepare_decoding, read
from service.preprocess.header import read_header

POLICY = DecodePolicy(max_image_pixels=178_000_000, jpeg_draft_ratio=0)
SERVED = DecodePolicy(max_image_pixels=50_000_000, jpeg_draft_ratio=0)
RULE = Preprocessing(resize=64, crop=64, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3)
MB = 2**20


@dataclass(frozen=True)
class Taken:
    """What a file took: its answer, processor seconds, and MB at the peak beside the estimate."""

    answer: str
    seconds: float
    peak: float
    estimate: float
    pixels: int


def take(data: bytes, policy: DecodePolicy) -> Taken:
    """Decode in a child process, whose peak of memory begins with the decoding."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, start = _memory("VmRSS"), time.process_time()
        answer, estimate, pixels = "200", 0.0, read_header(data, RULE, 0).pixels
        try:
            image = read(data, policy.max_image_pixels)
            estimate, pixels = image.peak_bytes() / MB, image.pixels
            decode_upright(data, policy)
        except RequestError as error:
            answer = error.code
        seconds = time.process_time() - start
        taken = [answer, seconds, _memory("VmHWM") - before, estimate, pixels]
        os.write(here, json.dumps(taken).encode())
        os._exit(0)
    os.close(here)
    with os.fdopen(there) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return Taken(*json.loads(text or '["crashed", 0, 0, 0, 0]'))


def _memory(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def honest(names: list[str], pixels: int) -> bool:
    """Measure honest images; say if all estimates hold."""
    width = max(64, round((pixels * 4 / 3) ** 0.5))
    picture = photo(width, width * 3 // 4)
    rows, fine = [], True
    for name in names:
        taken = take(HONEST[name](picture), POLICY)
        holds = taken.answer == "200" and taken.peak <= 1.05 * taken.estimate + 5
        holds = holds or "turned" in name  # turning is counted by its caller
        fine = fine and holds
        rows.append(
            [name, taken.answer, f"{taken.seconds:.3f}", f"{taken.peak:.0f}",
             f"{taken.estimate:.0f}", "" if holds else "too low"]
        )  # fmt: skip
    print(f"Honest images of {picture.width} x {picture.height} pixels\n")
    print(table(["kind", "answer", "s", "peak MB", "estimate MB", ""], rows))
    return fine


def hand_made(names: list[str]) -> bool:
    """Measure hand-made files beside honest ones; say if none takes more."""
    rows, fine = [], True
    for name in names:
        kind, make = HAND_MADE[name]
        data = make()
        taken = take(data, SERVED)
        side = max(64, round(min(taken.pixels, SERVED.max_image_pixels) ** 0.5))
        other = take(HONEST[kind](photo(side, side)), POLICY)
        holds = (
            taken.answer != "crashed"
            and taken.seconds <= 2 * other.seconds + 0.01 + 0.002 * len(data) / MB
            and taken.peak <= other.peak + 20 + len(data) / MB
        )
        fine = fine and holds
        rows.append(
            [name, f"{len(data) / 1000:.0f}", taken.answer, f"{taken.seconds:.3f}",
             f"{other.seconds:.3f}", f"{taken.peak:.0f}", f"{other.peak:.0f}",
             "" if holds else "more"]
        )  # fmt: skip
    print("\nHand-made files beside honest ones of as many pixels\n")
    print(table(["file", "KB", "answer", "s", "honest s", "MB", "honest MB", ""], rows))
    return fine


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=positive, default=12.0, help="[%(default)s]")
    parser.add_argument("--only", action="append", default=[], metavar="WORD",
        help="only kinds whose name has it; may be repeated [all]")  # fmt: skip
    options = parser.parse_args()
    prepare_decoding()
    chosen = [
        [name for name in names if not options.only or any(word in name for word in options.only)]
        for names in (HONEST, HAND_MADE)
    ]
    if not any(chosen):
        parser.error(f"--only: no kind has {' or '.join(options.only)} in its name")
    results = [honest(chosen[0], round(options.megapixels * 1e6)), hand_made(chosen[1])]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
