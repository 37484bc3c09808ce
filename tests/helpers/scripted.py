"""A server that answers as a test says: busy, broken, or like none of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from service.errors import RequestError
from service.http.problems import problem


@dataclass
class Scripted:
    """What is answered, one after the other (the last again and again), and what was asked."""

    answers: list[tuple[int, dict[str, str], bytes]]
    url: str = ""
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


HANG_UP: tuple[int, dict[str, str], bytes] = (0, {}, b"")
"""In place of an answer: the connection is closed."""


def refusal(error: RequestError, **headers: str) -> tuple[int, dict[str, str], bytes]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return error.status, fields, json.dumps(problem(error, "an-id")).encode()


def labels(*names: str) -> tuple[int, dict[str, str], bytes]:
    """Return an answer of `POST /v1/classify` with one label for each image."""
    results = [
        {
            "labels": [{"id": "c0", "label": name, "index": 0, "probability": 0.5}],
            "width": 1,
            "height": 1,
        }
        for name in names
    ]
    return 200, {}, json.dumps({"model": "m", "version": 1, "results": results}).encode()


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Scripted]:
    script = Scripted(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            fields = {name.lower(): value for name, value in self.headers.items()}
            script.asked.append((self.path, fields, body))
            answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if answer is HANG_UP:
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Request-Id", "an-id")
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
