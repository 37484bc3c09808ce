"""Several processes send the load of `resnet-serve bench`, and leave with the program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvloop
from images import colored

import service
from service.bench import crew
from service.bench.channel import Channel, Ready
from service.bench.cli import run_bench
from service.bench.crew import Crew
from service.bench.errors import GeneratorError, OptionError
from service.bench.generator import Work
from service.bench.monitor import process_tree
from service.bench.open_files import allow_open_files
from service.bench.options import BenchOptions
from service.bench.shares import Share
from service.bench.target import Target

INTERRUPTED = 130
WAIT_S = 60
NOWHERE = Work(Target("127.0.0.1", 1, "gone"), [b"request"], [], 0.0, 1.0)


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "images").mkdir()
    for color in ("red", "green", "blue"):
        (tmp_path / "images" / f"{color}.png").write_bytes(colored(color))
    return {
        "images": str(tmp_path / "images"), "duration": "1", "warm_up": "0.1",
        "processes": "2", "json_file": str(tmp_path / "r.json"),
    }  # fmt: skip


@pytest.fixture
def program(flags) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Gives a function that starts the real program in a process group of its own."""
    started: list[subprocess.Popen[str]] = []
    code = "import sys; from service.cli import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(Path(service.__file__).parents[1])}

    def start(client: httpx.Client, **more: str) -> subprocess.Popen[str]:
        given = flags | {"url": str(client.base_url)} | more
        words = [f"--{k.removesuffix('_file').replace('_', '-')}={v}" for k, v in given.items()]
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "bench", *words],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def report_of(flags: dict[str, str]) -> dict:
    return json.loads(Path(flags["json_file"]).read_text())


def workers() -> list[int]:
    """The processes of the generator that this test has started."""

    def is_worker(process: psutil.Process) -> bool:
        try:
            return any("service.bench.worker" in word for word in process.cmdline())
        except psutil.NoSuchProcess:
            return False

    return [child.pid for child in process_tree(os.getpid())[1:] if is_worker(child)]


def images_answered(client: httpx.Client) -> int:
    found = re.findall(r"^resnet_serve_batch_size_sum\S* (\S+)$", client.get("/metrics").text, re.M)
    return int(sum(map(float, found)))


def test_a_closed_loop_of_two_processes_gets_right_answers(flags, serve, capsys):
    client = serve()
    assert run_bench(flags | {"url": str(client.base_url), "clients": "5"}) == 0
    (run,) = report_of(flags)["runs"]
    assert run["errors"] == {}
    assert run["requests"] == run["ok"] > 10
    assert run["agreement"] == 1
    generator = run["generator"]
    assert generator["processes"] == 2
    assert 0 < generator["busiest_cores"] < generator["cpu_cores"]
    assert "2 processes" in capsys.readouterr().out
    assert workers() == []


def test_every_arrival_is_sent_once(flags, serve, tmp_path):
    """So many as the trace has, beside the three reference answers."""
    trace = tmp_path / "trace.txt"
    trace.write_text("".join(f"{i * 0.01:.2f}\n" for i in range(51)))
    client = serve()
    before = images_answered(client)
    flags |= {"mode": "trace", "trace": str(trace), "warm_up": "0", "connections": "3"}
    assert run_bench(flags | {"url": str(client.base_url)}) == 0
    (run,) = report_of(flags)["runs"]
    assert run["requests"] == run["ok"] == 51
    assert images_answered(client) - before == 51 + 3


def test_the_processes_stay_for_all_runs_of_a_sweep(flags, serve):
    flags |= {"mode": "poisson", "sweep": "40,80", "duration": "0.5", "processes": "3"}
    assert run_bench(flags | {"url": str(serve().base_url)}) == 0
    runs = report_of(flags)["runs"]
    assert [(run["rate"], run["errors"]) for run in runs] == [(40, {}), (80, {})]
    assert all(run["generator"]["processes"] == 3 for run in runs)
    assert workers() == []


def test_how_it_goes_is_shown_on_a_terminal(flags, serve, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run_bench(flags | {"url": str(serve().base_url), "duration": "2.5"}) == 0
    shown = capsys.readouterr().err
    assert re.search(r"closed \d/2 s: [1-9]\d* answers/s, p50 \d+\.\d ms, 0 errors", shown)


def test_ctrl_c_of_a_terminal_keeps_the_report_and_leaves_no_process(
    flags, serve, at_batch, program
):
    """There it goes to all processes of the program."""
    under_way = threading.Event()
    client = serve(max_batch=1)
    at_batch(150, under_way.set)  # at a hundred a second: long after the warm-up
    process = program(client, mode="poisson", rate="100", duration="600")
    assert under_way.wait(WAIT_S)
    assert len(process_tree(process.pid)) == 3
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (INTERRUPTED, "")
    (run,) = report_of(flags)["runs"]
    assert run["interrupted"]
    assert run["errors"] == {}
    assert 0.5 <= run["seconds"] < 60
    assert 0 < run["ok"] == run["requests"] < 150
    assert run["generator"]["cpu_s"] > 0
    assert "Interrupted" in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_ctrl_c_before_anything_is_sent_ends_all(flags, serve, at_batch):
    client = serve()
    at_batch(3 + 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_bench(flags | {"url": str(client.base_url), "warm_up": "60"})
    assert workers() == []


def test_the_processes_end_when_the_program_is_killed(serve, at_batch, program):
    under_way = threading.Event()
    client = serve()
    at_batch(50, under_way.set)
    process = program(client, duration="600")
    assert under_way.wait(WAIT_S)
    _, *children = process_tree(process.pid)
    assert len(children) == 2
    handles = [os.pidfd_open(child.pid) for child in children]
    process.kill()
    for handle in handles:
        ended, _, _ = select.select([handle], [], [], WAIT_S)
        os.close(handle)
        assert ended, "a process has outlived the program"
    assert process.communicate() == ("", ""), "they have nothing to say either"


def test_a_process_that_is_killed_is_told_in_one_line(flags, serve, at_batch):
    client = serve()
    at_batch(50, lambda: os.kill(workers()[0], signal.SIGKILL))
    with pytest.raises(GeneratorError, match="a load generator process ended by SIGKILL"):
        run_bench(flags | {"url": str(client.base_url), "duration": "600"})
    assert workers() == []


def test_ctrl_c_does_not_wait_for_a_process_that_is_stopped(
    flags, serve, at_batch, capsys, monkeypatch
):
    """What the others have sent is reported, and that this one's part is missing."""
    monkeypatch.setattr(crew, "_ANSWER_S", 1.0)

    def stop_one_and_interrupt() -> None:
        os.kill(workers()[0], signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)

    url = str(serve(max_batch=1).base_url)
    at_batch(150, stop_one_and_interrupt)
    flags |= {"url": url, "mode": "poisson", "rate": "100", "duration": "600"}
    assert run_bench(flags) == INTERRUPTED
    (run,) = report_of(flags)["runs"]
    assert run["ok"] > 0
    generator = run["generator"]
    assert (generator["processes"], generator["silent_processes"]) == (1, 1)
    assert "1 more did not answer" in capsys.readouterr().out
    assert workers() == []


def in_a_loop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def test_where_no_process_answers_there_is_nothing_to_report(monkeypatch):
    monkeypatch.setattr(crew, "_ANSWER_S", 0.2)

    async def with_all_stopped() -> None:
        async with Crew(NOWHERE, 2, tell=False) as stopped:
            for pid in workers():
                os.kill(pid, signal.SIGSTOP)
            await stopped.finish()

    with pytest.raises(GeneratorError, match="no load generator process answers"):
        in_a_loop(with_all_stopped())
    assert workers() == []


def test_a_process_that_is_gone_is_told_by_its_channel():
    """Also when sending has failed already."""

    async def keep_sending(channel: Channel) -> None:
        while True:
            await channel.send(Ready())
            await asyncio.sleep(0)

    async def with_one_end() -> None:
        here, there = socket.socketpair()
        channel = await Channel.over(here)
        there.close()
        with pytest.raises(EOFError):
            await channel.receive()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(keep_sending(channel), WAIT_S / 2)
        with pytest.raises(ConnectionError):
            await channel.send(Ready())
        channel.close()

    in_a_loop(with_one_end())


def test_a_process_that_is_killed_while_it_starts_is_told_in_one_line(monkeypatch):
    start = crew._start_worker

    async def start_and_kill() -> object:
        worker = await start()
        worker._process.kill()
        worker._process.wait()
        return worker

    monkeypatch.setattr(crew, "_start_worker", start_and_kill)

    async def with_all_killed() -> None:
        async with Crew(NOWHERE, 2, tell=False) as members:
            await members.open([Share(1, None, 0), Share(1, None, 1)])

    with pytest.raises(GeneratorError, match="ended by SIGKILL"):
        in_a_loop(with_all_killed())
    assert workers() == []


@contextlib.contextmanager
def no_file_more() -> Iterator[None]:
    """As many open files are allowed as there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_are_told_in_one_line():
    async def without_files() -> None:
        with contextlib.ExitStack() as files:
            files.enter_context(no_file_more())
            with contextlib.suppress(OSError):
                while True:
                    files.enter_context(socket.socket())
            await Crew(NOWHERE, 1, tell=False).__aenter__()

    with pytest.raises(GeneratorError, match="can't be started: Too many open files"):
        in_a_loop(without_files())


@pytest.mark.parametrize(("processes", "needed"), [(1, 128), (32, 128), (64, 192)])
def test_this_process_may_open_a_socket_to_each_of_the_others(monkeypatch, processes, needed):
    allowed = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: allowed.append(limits))
    allow_open_files(BenchOptions(clients=64), processes)
    assert allowed == [(needed, 4096)]


def test_more_processes_than_open_files_allow_are_refused(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 100))
    with pytest.raises(OptionError, match="--processes: 64 need 192 open files, but only 100"):
        allow_open_files(BenchOptions(clients=64), 64)


def test_open_files_are_limited_for_each_process(flags, serve, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))
    flags |= {"url": str(serve().base_url), "clients": "100", "duration": "0.3"}
    with pytest.raises(OptionError, match="--clients: 100 per process need 164 open files"):
        run_bench(flags | {"processes": "1"})
    assert run_bench(flags | {"processes": "2"}) == 0


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [("/bin/false", "ended with status 1"), ("/nowhere", "can't be started: No such file")],
)
def test_a_process_that_does_not_start_is_told_in_one_line(
    flags, serve, monkeypatch, interpreter, said
):
    client = serve()
    monkeypatch.setattr(sys, "executable", interpreter)
    with pytest.raises(GeneratorError, match=said):
        run_bench(flags | {"url": str(client.base_url)})


def test_a_process_that_fails_says_why(capfd):
    async def with_a_bad_share() -> None:
        async with Crew(NOWHERE, 2, tell=False) as crew:
            await crew.open([Share(1, None, 0), Share(1, None, -1)])

    with pytest.raises(GeneratorError, match="ended with status 1"):
        in_a_loop(with_a_bad_share())
    assert "ValueError" in capfd.readouterr().err
    assert workers() == []
