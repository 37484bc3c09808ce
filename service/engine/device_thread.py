"""The only thread that uses a device: ONNX Runtime keeps handles and graphs per thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import structlog

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class _EndedError(RuntimeError):
    """The thread was closed."""


class _Task:
    """A piece of work, with its outcome once `done` is released."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class DeviceThread:
    """Does its work one piece at a time, in the order of arrival.

    The thread starts with the first piece. It is a daemon: a device that hangs must not keep the
    process from exiting.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = name
        self._clock = clock
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._since: float | None = None

    def call(self, work: Callable[[], T]) -> T:
        """Do `work` on the thread and return its result, or raise its error.

        When called on that thread, it is done immediately. Raises `RuntimeError` once closed.
        """
        if threading.current_thread() is self._thread:
            return work()
        task = self._hand_over(work)
        task.done.acquire()
        if task.error is None:
            return cast("T", task.result)
        try:
            raise task.error
        finally:
            del task  # the error's traceback holds this frame, which would hold the error

    def post(self, work: Callable[[], object]) -> None:
        """Do `work` on the thread later, without waiting; its errors are logged.

        Once closed, it is dropped.
        """

        def logged() -> None:
            try:
                work()
            except Exception:  # noqa: BLE001 - no caller could handle it
                _log.warning("device_work_failed", thread=self.name, exc_info=True)

        with suppress(_EndedError):
            self._hand_over(logged)

    def trouble(self, stuck_after_s: float) -> str | None:
        """Return what is wrong: it is dead, or has been on one task for more than that time."""
        if self._thread is not None and not self._thread.is_alive() and not self._closed:
            return f"thread {self.name} is dead"
        since = self._since
        if since is not None and (busy_s := self._clock() - since) > stuck_after_s:
            return f"thread {self.name} has been busy with one task for {busy_s:.0f} s"
        return None

    def close(self, timeout_s: float) -> bool:
        """End the thread after its remaining work, and return whether it ended in time."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._tasks.put(None)
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _hand_over(self, work: Callable[[], Any]) -> _Task:
        task = _Task(work)
        with self._lock:
            if self._closed:
                raise _EndedError(f"thread {self.name} has ended")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._thread.start()
            self._tasks.put(task)
        return task

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._since = self._clock()
            try:
                task.result = task.work()
            except BaseException as error:  # noqa: BLE001 - `call` raises it
                task.error = error
            self._since = None
            task.done.release()
            del task  # or the thread would keep a batch's pixels and results while it waits
