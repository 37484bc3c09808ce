"""The driver of MLPerf's LoadGen: its client, its readers, and a run where LoadGen is installed."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from types import SimpleNamespace

import loadgen
import loadgen_client
import pytest
from images import colored
from loadgen_client import QueryClient
from loadgen_results import metric_of, read_accuracy, read_detail

from service.bench import pool
from service.bench.load import OK
from service.bench.reference import Expected, error_code
from service.bench.target import Target
from service.bench.wire import Answer

YES = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def by_status(image: int, answer: Answer) -> str:
    return OK if answer.status == 200 else error_code(answer)


def completed_by(answers: list[bytes | None], queries: int, **options) -> tuple[dict, QueryClient]:
    """Issue queries to a server that gives these answers in turn; None cuts the connection."""
    left = deque(answers)
    done: dict[int, bytes] = {}
    over = asyncio.Event()

    def complete(response_id: int, body: bytes) -> None:
        assert response_id not in done, "a query was completed twice"
        done[response_id] = body
        if len(done) == queries:
            over.set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answer = left.popleft() if left else YES
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> QueryClient:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        target = Target("127.0.0.1", server.sockets[0].getsockname()[1], "test")
        if options.pop("gone", False):
            server.close()
            await server.wait_closed()
        client = QueryClient(
            target, [target.get("/")] * 3, by_status, complete,
            **{"connections": 2, "timeout_s": 5.0, "retry_refused": False} | options,
        )  # fmt: skip
        await client.open()
        samples = [SimpleNamespace(id=100 + i, index=i % 3) for i in range(queries)]
        # From another thread, as LoadGen does, and in two goes.
        await asyncio.to_thread(client.issue, samples[:1])
        await asyncio.to_thread(client.issue, samples[1:])
        await asyncio.wait_for(over.wait(), 20)
        await client.close()
        server.close()
        return client

    client = asyncio.run(main())
    assert sorted(done) == [100 + i for i in range(queries)]
    return done, client


def test_queries_are_answered_over_a_bounded_pool():
    done, client = completed_by([], 20)
    assert set(done.values()) == {b"hi"}
    counts = client.counts
    assert (counts.answered, counts.failures.total(), counts.retries) == (20, 0, 0)
    assert counts.most_in_flight == 2
    assert counts.waited >= 17
    assert len(counts.wire_s) == 20


def test_a_refusal_is_a_failure():
    done, client = completed_by([BUSY], 5)
    assert client.counts.failures == {"http_503": 1}
    assert list(done.values()).count(b"") == 1


def test_a_refused_sample_of_offline_is_tried_again(monkeypatch):
    monkeypatch.setattr(loadgen_client, "RETRY_S", 0.01)
    done, client = completed_by([BUSY, BUSY, YES, BUSY], 5, retry_refused=True)
    assert client.counts.retries == 3
    assert client.counts.failures.total() == 0
    assert set(done.values()) == {b"hi"}


def test_who_is_refused_for_too_long_has_failed(monkeypatch):
    monkeypatch.setattr(loadgen_client, "RETRY_S", 0.05)
    _, client = completed_by([BUSY] * 1000, 2, retry_refused=True, timeout_s=0.2)
    assert client.counts.failures == {"http_503": 2}


def test_lost_and_closed_connections_are_replaced():
    _, client = completed_by([None, CLOSING, None, CLOSING], 12)
    assert client.counts.failures == {"connection_lost": 2}
    assert client.counts.answered == 10


def test_a_server_that_is_gone_fails_every_query(monkeypatch):
    monkeypatch.setattr(pool, "_AFTER_FAILED_CONNECT_S", 0.001)
    done, client = completed_by([], 6, gone=True)
    assert client.counts.failures == {"connect_failed": 6}
    assert set(done.values()) == {b""}


def test_loadgens_detail_log_is_read(tmp_path):
    lines = [
        "not a line of the log",
        ":::MLLOG {broken",
        *(
            ":::MLLOG " + json.dumps({"key": key, "value": value})
            for key, value in {
                "result_validity": "VALID",
                "result_90.00_percentile_latency_ns": 2500000,
                "result_samples_per_second": 470.6,
                "generic_message": "passed over",
            }.items()
        ),
    ]
    (tmp_path / "mlperf_log_detail.txt").write_text("\n".join(lines))
    detail = read_detail(tmp_path)
    assert detail["result_validity"] == "VALID"
    assert "generic_message" not in detail
    assert metric_of("SingleStream", detail) == ("90th percentile", 2.5, "ms")
    assert metric_of("Offline", detail) == ("throughput", 470.6, "samples/s")
    assert metric_of("Server", detail) is None


def test_answers_in_loadgens_log_are_compared(tmp_path):
    def body(label: str) -> str:
        answer = {"results": [{"labels": [{"id": label, "probability": 0.9}]}]}
        return json.dumps(answer).encode().hex().upper()

    entries = [
        {"seq_id": 0, "qsl_idx": 1, "data": body("b")},
        {"seq_id": 1, "qsl_idx": 0, "data": body("b")},
        {"seq_id": 2, "qsl_idx": 2, "data": ""},
    ]
    (tmp_path / "mlperf_log_accuracy.json").write_text(json.dumps(entries))
    expected = [Expected((name, 0.9)) for name in "abcd"]
    assert read_accuracy(tmp_path, expected, 1e-3) == (3, 1, 1)


@pytest.fixture
def driver(client, tmp_path):
    """Return a function that runs the program against a real server and reads its report."""
    pytest.importorskip("mlperf_loadgen")
    folder = tmp_path / "images"
    folder.mkdir()
    for color in ("red", "green", "blue"):
        (folder / f"{color}.png").write_bytes(colored(color))

    def run(*flags: str) -> tuple[int, dict]:
        status = loadgen.main(
            [
                "--url", str(client.base_url), "--images", str(folder), "--min-duration-s", "1",
                "--log-dir", str(tmp_path / "logs"), "--json", str(tmp_path / "r.json"), *flags,
            ]
        )  # fmt: skip
        return status, json.loads((tmp_path / "r.json").read_text())

    return run


def test_a_single_stream_of_a_second(driver, tmp_path, capsys):
    status, report = driver("--scenario", "SingleStream")
    assert status == 0, capsys.readouterr()
    assert report["loadgen_verdict"] == "VALID"
    assert report["failed"] == 0
    assert report["client"]["answered"] >= 100
    assert report["client"]["most_in_flight"] == 1
    assert report["metric"]["value"] > 0
    assert "VALID" in capsys.readouterr().out
    assert (tmp_path / "logs" / "mlperf_log_summary.txt").exists()


def test_accuracy_of_offline(driver, capsys):
    status, report = driver("--scenario", "Offline", "--mode", "accuracy")
    assert status == 0, capsys.readouterr()
    assert report["accuracy"] == {"samples": 3, "right": 3, "missing": 0}


def test_failed_queries_are_told_whatever_loadgen_says(driver, capsys):
    """The reference is another model's, so that every answer is wrong."""
    status, report = driver("--scenario", "SingleStream", "--reference", "local")
    assert status == 1
    assert (report["loadgen_verdict"], report["valid"]) == ("VALID", False)
    assert report["failures"] == {"wrong_answer": report["failed"]}
    assert report["failed"] >= 100
    assert "INVALID" in capsys.readouterr().out


def test_without_a_server_it_ends_with_a_line(capsys, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    flags = ["--url", "http://127.0.0.1:9", "--log-dir", str(tmp_path), "--images", "synthetic:8x8"]
    assert loadgen.main(flags) == 1
    assert "loadgen: error: --url" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--image-count", "0"], "--image-count: must be a whole number from 1 to 100000, got '0'"),
        (["--model-file", "m.onnx"], "--model-file goes with --reference local or --limits"),
        (["--images", "/nonexistent"], "--images /nonexistent: can't be read: No such file"),
        (["--url", "http://192.0.2.1"], "is not this machine's loopback"),
    ],
)
def test_flags_of_the_service_s_own_benchmark_are_judged_as_there(flags, said, capsys):
    pytest.importorskip("mlperf_loadgen")
    assert loadgen.main(flags) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_a_rate_is_a_number_above_0(value, capsys):
    with pytest.raises(SystemExit):
        loadgen.main(["--server-target-qps", value])
    assert f"'{value}' is not a number above 0" in capsys.readouterr().err
