"""A client's connection, and what is wrong with an answer that comes over it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from chaos_requests import Request

PATIENCE_S = 45.0
"""Seconds to wait for an answer; after that, a client complains."""


@dataclass
class Answer:
    """A parsed response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"

    def json(self) -> Any:
        return json.loads(self.body)


class Unanswered(Exception):  # noqa: N818 - not an error of the program
    """The connection ended where an answer was due."""


@dataclass(eq=False)
class Line:
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, *, head_only: bool = False, interim: bool = False) -> Answer:
        """Read one answer or, with `interim`, a "100 Continue".

        Raises `Unanswered` if there is none, or if it is cut off.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                status = 100
                while status == 100:
                    head = await self.reader.readuntil(b"\r\n\r\n")
                    first, *lines = head.decode("latin-1").strip().split("\r\n")
                    status = int(first.split()[1])
                    if interim and status == 100:
                        return Answer(status, {}, b"")
                headers = {k.lower(): v.strip() for k, v in (x.split(":", 1) for x in lines)}
                size = 0 if head_only else int(headers["content-length"])
                return Answer(status, headers, await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Unanswered(repr(error)) from error
        except TimeoutError:
            raise Unanswered(f"nothing for {PATIENCE_S} s") from None

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()


def judge(request: Request, answer: Answer) -> str | None:
    """Return what is wrong with an answer, if anything."""
    if answer.headers.get("x-request-id") != request.id:
        return f"of another request: {answer.headers}"
    if request.head.startswith(b"HEAD"):
        return None if answer.status == 200 else f"status {answer.status}"
    if answer.status != 200:
        return judge_problem(request.codes, answer, request.id)
    if request.plain:
        return None
    if request.labels is None:
        return "200 for a bad request"
    given = [
        result["error"]["code"] if "error" in result else result["labels"][0]["label"]
        for result in answer.json()["results"]
    ]
    return None if given == list(request.labels) else f"{given}, not {list(request.labels)}"


def judge_problem(codes: frozenset[str], answer: Answer, id_: str | None = None) -> str | None:
    """Return what is wrong with a problem detail, if anything."""
    if answer.headers.get("content-type") != "application/problem+json":
        return f"status {answer.status} is no problem detail: {answer.headers}"
    problem = answer.json()
    if not {"type", "title", "status", "detail", "code", "request_id"} <= set(problem):
        return "an incomplete problem detail"
    if problem["status"] != answer.status or (id_ and problem["request_id"] != id_):
        return "a problem detail of another answer"
    if problem["code"] not in codes:
        return f"code {problem['code']} and status {answer.status}, not {sorted(codes)}"
    if answer.status == 503 and int(answer.headers.get("retry-after", 0)) < 1:
        return "no Retry-After"
    return None
