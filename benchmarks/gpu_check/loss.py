"""loss: an error that sticks to the CUDA context ends the server, and the next one answers."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from pathlib import Path

from startup import free_port, gets_ready

from gpu_check.context import Context
from gpu_check.report import Part
from gpu_check.serve import link
from service.bench.images import read_images

_SERVER = str(Path(__file__).with_name("faulty_server.py"))
_MOST_END_S = 5.0
_CLIENTS = 8


def run(context: Context, part: Part) -> None:
    """Provoke a real one in a child server under load; watch its end, and start another."""
    if not context.gpu:
        part.skip("a sticking error in a child server")
        return
    with tempfile.TemporaryDirectory() as folder:
        link(context.model("fp16"), Path(folder))
        command = [sys.executable, _SERVER, "serve", "--models", folder, "--max-batch", "8",
                   "--cache-dir", "none", "--log-format", "json"]  # fmt: skip
        image = read_images(f"synthetic:{context.image_side}x{context.image_side}", 1, 0)[0]
        _lose(part, command, image)
        with _Server(command) as server:
            status = server.post(image)
            part.check("a server started after it", f"answers {status}", "200", ok=status == 200)


class _Server:
    """A child server and its address; its log is kept."""

    def __init__(self, command: list[str]) -> None:
        self._port = free_port()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self.process = subprocess.Popen([*command, "--port", str(self._port)], stderr=self.log)

    def __enter__(self) -> _Server:
        if not gets_ready(self.process, f"http://127.0.0.1:{self._port}", 0.02):
            lines = self.lines()[-3:]
            self.__exit__()
            raise RuntimeError(f"the child server did not get ready: {lines}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        finally:
            connection.close()

    def post(self, image: bytes) -> int:
        return self.ask("POST", "/v1/classify?" + urllib.parse.urlencode({"top_k": 1}), image)

    def lines(self) -> list[str]:
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace").splitlines()


def _lose(part: Part, command: list[str], image: bytes) -> None:
    statuses: Counter[int] = Counter()
    over = threading.Event()
    with _Server(command) as server:

        def keep_posting() -> None:
            while not over.is_set():
                try:
                    statuses[server.post(image)] += 1
                except OSError:
                    return  # it has ended

        threads = [threading.Thread(target=keep_posting) for _ in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        while statuses[200] < 10 * _CLIENTS and server.process.poll() is None:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGUSR1)
        provoked = time.perf_counter()
        live = _first_failure(server)
        status = server.process.wait(timeout=20)
        took = time.perf_counter() - provoked
        over.set()
        for thread in threads:
            thread.join()
        lost = sum('"device_lost"' in line for line in server.lines())
    part.check("/livez after the error", str(live), "503", ok=live == 503)
    part.check(
        "answers", ", ".join(f"{code}: {count}" for code, count in sorted(statuses.items())),
        "200, then 503 only", ok=statuses[503] > 0 and not set(statuses) - {200, 503},
    )  # fmt: skip
    part.check("exit status", str(status), "1", ok=status == 1)
    part.at_most("from the error to the end", took, _MOST_END_S, " s")
    part.check("log lines `device_lost`", str(lost), "1", ok=lost == 1)


def _first_failure(server: _Server) -> int | None:
    """Return the first status of /livez that is not 200; None if it never had one."""
    while server.process.poll() is None:
        try:
            if (status := server.ask("GET", "/livez")) != 200:
                return status
        except OSError:
            return None
        time.sleep(0.005)
    return None
