"""`resnet-serve classify` as users run it: the real program, cut off and continued."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from color_model import write_color_model
from images import colored
from process import PROGRAM, clean_environment, run_to_end, serving
from waiting import PATIENCE_S, wait_until

from service.contract import Label

COMMAND = [*PROGRAM, "classify"]
RED, GREEN = colored("red"), colored("green")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_color_model(tmp_path / "models" / "color.onnx"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in (("1.png", RED), ("2.png", GREEN), ("3.png", b"no image")):
        (folder / name).write_bytes(content)
    return folder


def summary(output: str) -> list[str]:
    rows = map(json.loads, output.splitlines())
    return [row["error"]["code"] if "error" in row else row["labels"][0]["label"] for row in rows]


def test_a_bad_image_is_a_row_and_the_exit_status_tells(model, photos):
    ended = run_to_end([*COMMAND, str(photos), "--model", model])
    assert ended.returncode == 3, ended.stderr
    assert summary(ended.stdout) == ["red", "green", "not_an_image"]
    assert ended.stderr.splitlines()[-1] == "resnet-serve: 1 of 3 images have an error"
    (photos / "3.png").unlink()
    ended = run_to_end([*COMMAND, str(photos), "--model", model])
    assert (ended.returncode, summary(ended.stdout)) == (0, ["red", "green"])


def test_a_server_gives_the_same_rows(model, photos):
    local = run_to_end([*COMMAND, str(photos), "--model", model])
    with serving("--models", model) as server:
        asked = run_to_end([*COMMAND, str(photos), "--url", server.url])
        unknown = run_to_end([*COMMAND, str(photos), "--url", server.url, "--model", "x"])
    assert (asked.returncode, asked.stdout) == (local.returncode, local.stdout)
    assert unknown.returncode == 1
    assert "the server has color" in unknown.stderr


def test_a_server_is_asked_for_the_version_that_it_answers_with(photos, tmp_path):
    """Not for the highest, where another one was chosen."""
    models = tmp_path / "models"
    for version in (1, 2):
        write_color_model(models / "color" / f"{version}.onnx")
    with serving("--models", models, "--model-versions", "color=1") as server:
        ended = run_to_end([*COMMAND, str(photos), "--url", server.url])
    assert {json.loads(row).get("version", 1) for row in ended.stdout.splitlines()} == {1}


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://[::1"])
def test_a_url_that_can_not_be_one_is_told_at_once(photos, url):
    ended = run_to_end([*COMMAND, str(photos), "--url", url])
    assert ended.returncode == 1
    assert f"--url: url {url!r}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_key_file_with_more_than_a_key_is_told_and_not_shown(photos):
    (photos / "key").write_text("shop.secret\nshop.secret\n")
    flags = ["--url", "http://127.0.0.1:1", "--api-key-file", str(photos / "key")]
    ended = run_to_end([*COMMAND, str(photos), *flags])
    assert ended.returncode == 1
    assert "key: an API key is one word" in ended.stderr
    assert "secret" not in ended.stderr


def test_a_server_that_is_away_is_one_line(photos):
    ended = run_to_end([*COMMAND, str(photos), "--url", "http://127.0.0.1:1", "--timeout-s", "0.2"])
    assert ended.returncode == 1
    assert "(unreachable)" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["nowhere"], "nowhere: there is no such file"),
        (["PHOTOS", "--top-k", "0"], "--top-k: must be a whole number"),
        (["PHOTOS", "--resume"], "--resume needs --output"),
        (["PHOTOS", "--model", "nowhere.onnx"], "nowhere.onnx: can't be read"),
        (["PHOTOS", "--connections", "2"], "--connections: only with --url"),
        (["PHOTOS", "--output", "/nowhere/labels.csv"], "/nowhere/labels.csv.partial: can't be"),
        (["PHOTOS/none"], "PHOTOS/none: has no images"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(photos, flags, said):
    (photos / "none").mkdir()
    flags = [flag.replace("PHOTOS", str(photos)) for flag in flags]
    ended = run_to_end([*COMMAND, *flags])
    assert ended.returncode == 1
    assert said.replace("PHOTOS", str(photos)) in ended.stderr
    assert "Traceback" not in ended.stderr


def tar_of(count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(count):
            content = (RED, GREEN, b"no image")[i % 3]
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@contextmanager
def begun(flags: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, "-", *flags], env=clean_environment(), stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def run_with(flags: list[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "-", *flags], env=clean_environment(), input=stdin, capture_output=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_run_that_is_cut_off_resumes_to_the_same_output(model, tmp_path, number, suffix):
    images = tar_of(2000)
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    partial = cut.with_name(f"{cut.name}.partial")
    assert run_with(["--model", model, "--output", str(whole)], images).returncode == 3

    flags = ["--model", model, "--output", str(cut)]
    with begun(flags) as process:
        stdin: Any = process.stdin
        stdin.write(images[: len(images) // 2])
        stdin.flush()
        wait_until(lambda: partial.exists() and partial.read_bytes().count(b"\n") > 100)
        process.send_signal(number)
        status = process.wait(PATIENCE_S)
        said = process.stderr.read() if process.stderr else b""
    assert not cut.exists()
    if number == signal.SIGINT:
        assert status == 130
        assert b"--resume continues" in said

    again = run_with(flags, images)
    assert again.returncode == 1
    assert b"continue it with --resume" in again.stderr
    resumed = run_with([*flags, "--resume"], images)
    assert resumed.returncode == 3, resumed.stderr
    assert cut.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_images_that_changed_in_between_are_told(model, tmp_path):
    output = tmp_path / "labels.jsonl"
    flags = ["--model", model, "--output", str(output)]
    with begun(flags) as process:
        stdin: Any = process.stdin
        stdin.write(tar_of(900))
        stdin.flush()
        partial = output.with_name("labels.jsonl.partial")
        wait_until(lambda: partial.exists() and partial.read_bytes().count(b"\n") > 100)
        process.kill()
    ended = run_with([*flags, "--resume"], tar_of(50))
    assert ended.returncode == 1
    assert b"image 51 was -/50.png and is not there now" in ended.stderr
    ended = run_with([*flags, "--resume", "--top-k", "1"], tar_of(900))
    assert b"another top_k: 3, and not 1" in ended.stderr


def test_a_run_is_not_resumed_with_another_model_of_the_same_name_and_version(model, tmp_path):
    """Else, one file would have the labels of both."""
    output = tmp_path / "labels.jsonl"
    partial = output.with_name("labels.jsonl.partial")
    with serving("--models", model, "--admin") as server:
        flags = ["--url", server.url, "--output", str(output)]
        with begun(flags) as process:
            stdin: Any = process.stdin
            stdin.write(tar_of(900))
            stdin.flush()
            wait_until(lambda: partial.exists() and partial.read_bytes().count(b"\n") > 100)
            process.kill()
        others = tuple(Label(id=f"d{i}", label=label) for i, label in enumerate("xyz"))
        write_color_model(Path(model), labels=others)
        httpx.post(f"{server.url}/v1/models/color/load", timeout=PATIENCE_S).raise_for_status()
        ended = run_with([*flags, "--resume"], tar_of(900))
    assert ended.returncode == 1
    assert b"is of a run with another description of the model" in ended.stderr


def test_a_reader_that_has_seen_enough_ends_it_quietly(model, tmp_path):
    tar = tmp_path / "many.tar"
    tar.write_bytes(tar_of(3000))
    with subprocess.Popen(
        [*COMMAND, str(tar), "--model", model], env=clean_environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 141
        assert b"Traceback" not in process.stderr.read()
