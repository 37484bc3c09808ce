"""Clients of every kind over raw connections, and the answers that each may get.

Everything is drawn from a seed. A client keeps its connection as long as both sides want, sends
good and bad requests in good and bad ways, and checks each answer; answers that it does not wait
for are not checked. `Crowd.complaints` collects what was wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from chaos_answers import Answer, Line, Unanswered, judge, judge_problem
from chaos_requests import Limits, Picture, Request, Requests


@dataclass
class Outcome:
    """What a client knows about a request that it waited for."""

    request: Request
    answer: Answer | None
    why: str = ""

    @property
    def is_ok(self) -> bool:
        return (
            self.answer is not None
            and self.request.labels is not None
            and (self.answer.status == 200)
        )


@dataclass
class Crowd:
    """Concurrent clients of one server."""

    url: str
    pictures: Sequence[Picture]
    limits: Limits
    name: str
    stopping: bool = False
    over: bool = False
    answered: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self, clients: int, seed: int, end: Callable[[Crowd], Awaitable[None]]) -> None:
        """Let clients act until `end` has returned and each has finished its current action."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                client = Client(self, random.Random(f"{seed} {number}"), f"{self.name}-{number}")
                group.create_task(client.act())
            await end(self)
            self.over = True

    async def has_answers(self, number: int) -> None:
        """Wait until the clients have received `number` answers."""
        async with self._more:
            await self._more.wait_for(lambda: self.answered >= number)

    async def note(self, request: Request, answer: Answer) -> None:
        """Check an answer and record complaints."""
        async with self._more:
            self.answered += 1
            self._more.notify_all()
        self.outcomes.append(Outcome(request, answer))
        wrong = judge(request, answer)
        if wrong:
            shown = answer.body[:300]
            self.complaints.append(f"{request.id} {request.head[:60]!r}: {wrong}: {shown!r}")

    def note_unanswered(self, request: Request, why: str) -> None:
        """Record a request without an answer; the log shows whether it had been accepted."""
        self.outcomes.append(Outcome(request, None, why))
        if not self.stopping:
            self.complaints.append(f"{request.id} {request.head[:60]!r}: unanswered: {why}")


class Client:
    """Does one thing after another, chosen at random."""

    def __init__(self, crowd: Crowd, chance: random.Random, name: str) -> None:
        self._crowd, self._chance, self._name = crowd, chance, name
        self._requests = Requests(crowd.pictures, crowd.limits, chance, name)
        self._line: Line | None = None

    async def act(self) -> None:
        """Act until the crowd breaks up or the server is gone."""
        manners: dict[Callable[[], Awaitable[None]], int] = {
            self._ask: 40,
            self._pipeline: 8,
            self._leave: 20,
            self._ask_slowly: 6,
            self._dribble: 2,
            self._dribble_head: 1,
            self._wait_for_continue: 4,
            self._send_too_much: 5,
            self._send_no_http: 3,
        }
        while not self._crowd.over:
            (manner,) = self._chance.choices([*manners], [*manners.values()])
            try:
                await manner()
            except ConnectionError:  # refused: the listener has closed
                if self._crowd.stopping:
                    break
                raise
        if self._line is not None:
            self._line.close()

    # Behaviours.

    async def _ask(self) -> None:
        """Send a complete request and wait, on the previous connection if it is still open."""
        await self._exchange(self._requests.any())

    async def _pipeline(self) -> None:
        """Send several requests at once; their answers must come in order."""
        requests = [self._requests.any() for _ in range(self._chance.randint(2, 4))]
        await self._exchange(*requests)

    async def _exchange(self, *requests: Request) -> None:
        line = await self._connected()
        waiting = list(requests)
        try:
            await line.send(b"".join(request.data for request in requests))
            while waiting:
                answer = await line.receive(head_only=waiting[0].head.startswith(b"HEAD"))
                await self._crowd.note(waiting.pop(0), answer)
                if answer.closes:
                    # Requests pipelined after it are not accepted (RFC 9112, section 9.6).
                    self._hang_up()
                    for request in waiting:
                        self._crowd.outcomes.append(Outcome(request, None, "behind the last"))
                    return
        except (Unanswered, ConnectionError) as error:
            self._hang_up()
            for request in waiting:
                self._crowd.note_unanswered(request, str(error))

    async def _leave(self) -> None:
        """Disconnect in the head, in the body or after it, with or without a reset."""
        line = await self._connected(fresh=self._chance.random() < 0.5)
        data = b"".join(self._requests.any().data for _ in range(self._chance.randint(1, 2)))
        cut = len(data) if self._chance.random() < 0.5 else self._chance.randint(1, len(data))
        self._line = None
        try:
            await line.send(data[:cut])
            await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.005, 0.02, 0.1]))
            if self._chance.random() < 0.2 and line.writer.can_write_eof():
                line.writer.write_eof()  # counts as gone too
                await line.reader.read()
        except ConnectionError:
            pass
        line.close(reset=self._chance.random() < 0.5)

    async def _ask_slowly(self) -> None:
        """Send the body of a good request in pieces, within the body timeout."""
        # On a machine that stalls, the pieces may take longer than intended.
        request = self._requests.picture({"body_timeout"})
        line = await self._connected(fresh=True)
        pieces = self._chance.randint(2, 5)
        size = -(-len(request.body) // pieces)
        try:
            await line.send(request.head)
            for start in range(0, len(request.body), size):
                await line.send(request.body[start : start + size])
                await asyncio.sleep(0.2 * self._crowd.limits.body_timeout_s / pieces)
            await self._crowd.note(request, await line.receive())
        except (Unanswered, ConnectionError) as error:
            self._crowd.note_unanswered(request, str(error))
        self._hang_up()

    async def _dribble(self) -> None:
        """Send bytes of an endless body, until told to stop."""
        line = await self._connected(fresh=True)
        request = self._requests.post(bytes(100_000), {"body_timeout"})
        await self._send_until_answered(line, request, request.head + b"x", b"x")

    async def _dribble_head(self) -> None:
        """Send an endless head."""
        line = await self._connected(fresh=True)
        request = Request(b"GET /livez HTTP/1.1\r\nX-Long: ", b"", "", frozenset())
        await self._send_until_answered(line, request, request.head, b"x")

    async def _send_until_answered(
        self, line: Line, request: Request, start: bytes, piece: bytes
    ) -> None:
        async def dribble() -> None:
            try:
                await line.send(start)
                while True:
                    await asyncio.sleep(0.05)
                    await line.send(piece)
            except ConnectionError:
                return

        dribbling = asyncio.create_task(dribble())
        try:
            answer = await line.receive()
            if request.id:
                await self._crowd.note(request, answer)
            elif wrong := judge_problem(frozenset({"headers_timeout"}), answer):
                self._crowd.complaints.append(f"an endless head: {wrong}")
        except Unanswered as error:
            if request.id or not self._crowd.stopping:
                self._crowd.note_unanswered(request, str(error))
        finally:
            dribbling.cancel()
            await asyncio.gather(dribbling, return_exceptions=True)
        self._hang_up()

    async def _wait_for_continue(self) -> None:
        """Send the body only when the server asks for it."""
        request = self._requests.picture({"body_timeout"}, Expect="100-continue")
        line = await self._connected(fresh=True)
        try:
            await line.send(request.head)
            answer = await line.receive(interim=True)
            if answer.status == 100:
                await line.send(request.body)
                answer = await line.receive()
            await self._crowd.note(request, answer)
        except (Unanswered, ConnectionError) as error:
            self._crowd.note_unanswered(request, str(error))
        self._hang_up()

    async def _send_too_much(self) -> None:
        """Send a body over the limit, announced or in chunks, as much as the server accepts."""
        line = await self._connected(fresh=True)
        body = bytes(self._crowd.limits.max_body_bytes + self._chance.randint(1, 300_000))
        request = self._requests.post(body, {"body_too_large"}, chunked=self._chance.random() < 0.5)
        try:
            sending = asyncio.create_task(line.send(request.data))
            answer = await line.receive()
            await asyncio.gather(sending, return_exceptions=True)
            await self._crowd.note(request, answer)
        except Unanswered as error:
            self._crowd.note_unanswered(request, str(error))
        self._hang_up()

    async def _send_no_http(self) -> None:
        """Send something that is not a request; it is refused, and the connection closed."""
        line = await self._connected(fresh=True)
        noise = self._chance.choice(
            [b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n",
             b"POST /v1/classify HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
             b"GET /livez HTTP/1.1\r\n\r\n"]
        )  # fmt: skip
        try:
            await line.send(noise)
            wrong = judge_problem(frozenset({"malformed_request"}), await line.receive())
            if wrong:
                self._crowd.complaints.append(f"{noise!r}: {wrong}")
        except (Unanswered, ConnectionError) as error:
            if not self._crowd.stopping:
                self._crowd.complaints.append(f"{noise!r}: unanswered: {error!r}")
        self._hang_up()

    async def _connected(self, *, fresh: bool = False) -> Line:
        if fresh:
            self._hang_up()
        if self._line is None:
            parts = urlsplit(self._crowd.url)
            self._line = Line(*await asyncio.open_connection(parts.hostname, parts.port))
        return self._line

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
