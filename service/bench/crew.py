"""A generator of several processes: starts them, makes them send together, collects outcomes."""

from __future__ import annotations

import asyncio
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

from service.bench.channel import Channel, Done, Finish, Finishing, Go, Ready
from service.bench.errors import GeneratorError
from service.bench.generator import Outcome, Tally, Work
from service.bench.shares import Share
from service.bench.summary import Window

M = TypeVar("M")

_ANSWER_S = 5.0  # for a process that does nothing else
_HAND_OVER_S = 5e-5  # per sample of an outcome: ten times what sending it takes

# Modules are found where this process finds them, and nowhere else.
_CODE = (
    "import sys; descriptor, *sys.path = sys.argv[1:]; "
    "from service.bench.worker import main; main(int(descriptor))"
)


class Crew:
    """A generator of several processes, which exist while its context is entered.

    With `tell` they report progress every second.
    """

    def __init__(self, work: Work, processes: int, *, tell: bool) -> None:
        self._work, self.processes, self._tell = work, processes, tell
        self._workers: list[_Worker] = []

    async def __aenter__(self) -> Crew:
        try:
            for _ in range(self.processes):
                self._workers.append(await _start_worker())
            for worker in self._workers:
                await worker.send(self._work)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()

    async def open(self, shares: Sequence[Share]) -> None:
        """Prepare a run; the processes connect one after another, see `Pool.open`."""
        if len(self._workers) < self.processes:
            raise GeneratorError("a load generator process did not answer and was killed")
        for worker, share in zip(self._workers, shares, strict=True):
            worker.tally = Tally()
            await worker.send(share)
            await worker.receive(Ready)

    async def run(self, start: float, window: Window) -> None:
        """Make all processes send from `start` on, and wait for the last answers."""
        for worker in self._workers:
            await worker.send(Go(start, window, self._tell))
        await self._receive(Done)

    def tally(self) -> Tally:
        """Return the processes' latest tallies combined, with the median of their medians."""
        right, errors, in_flight, p50s = zip(*(w.tally for w in self._workers), strict=True)
        known = [p50 for p50 in p50s if p50 is not None]
        middle = statistics.median(known) if known else None
        return Tally(sum(right), sum(errors), sum(in_flight), middle)

    async def finish(self) -> list[Outcome]:
        """Drop requests in progress and return the outcome of each process that answers.

        One that does not answer (it may have been stopped) is killed, and its part is missing.
        """
        for worker in self._workers:
            await worker.send(Finish())
        begun = await self._receive(Finishing, _ANSWER_S)
        handed_over_s = _ANSWER_S + _HAND_OVER_S * sum(each.samples for each in begun)
        return await self._receive(Outcome, handed_over_s)

    async def _receive(self, kind: type[M], within_s: float | None = None) -> list[M]:
        """Wait for a message from each process; those that send none in time are killed."""
        tasks = {asyncio.create_task(worker.receive(kind)): worker for worker in self._workers}
        try:
            done, silent = await asyncio.wait(
                tasks, timeout=within_s, return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        received = [task.result() for task in tasks if task in done]  # raises a failed task's error
        for task in silent:
            self._workers.remove(tasks[task])
            tasks[task].end()
        if not received:
            raise GeneratorError("no load generator process answers")
        return received


class _Worker:
    """A worker process, as seen by the process that started it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self._process, self._channel = process, channel
        self.tally = Tally()

    async def send(self, message: object) -> None:
        """Send a message; raises `GeneratorError` if the process has ended."""
        try:
            await self._channel.send(message)
        except ConnectionError as error:
            raise self._died() from error

    async def receive(self, kind: type[M]) -> M:
        """Wait for a message of that kind; raises `GeneratorError` if the process has ended."""
        while True:
            try:
                message = await self._channel.receive()
            except EOFError as error:
                raise self._died() from error
            if isinstance(message, kind):
                return message
            if isinstance(message, Tally):
                self.tally = message

    def end(self) -> None:
        """Kill the process; it has nothing to clean up."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _died(self) -> GeneratorError:
        status = self._process.wait()
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        return GeneratorError(f"a load generator process ended {how}")


async def _start_worker() -> _Worker:
    try:
        here, there = socket.socketpair()
        with there:
            channel = await Channel.over(here)
            try:
                return _Worker(_spawn(there.fileno()), channel)
            except OSError:
                channel.close()
                raise
    except OSError as error:
        raise GeneratorError(
            f"a load generator process can't be started: {error.strerror}"
        ) from error


def _spawn(descriptor: int) -> subprocess.Popen[bytes]:
    # Ctrl-C goes to all processes of a terminal. Signals blocked here are blocked in the new
    # process from the start; here, a Ctrl-C that comes meanwhile is only delayed.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-c", _CODE, str(descriptor), *sys.path],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
