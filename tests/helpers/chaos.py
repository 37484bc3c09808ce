"""Clients of every kind over raw connections, and the answers that each may get.

Everything is drawn from a seed. A client keeps its connection as long as both sides want, sends
good and bad requests in good and bad ways, and checks each answer; answers that it does not wait
for are not checked. `Crowd.complaints` collects what was wrong.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from images import claiming

PATIENCE_S = 45.0
"""Seconds to wait for an answer; after that, a client complains."""

BUSY = frozenset({"queue_full", "too_many_bytes_in_flight"})
"""Errors that any request with a body may get on a busy server."""


@dataclass(frozen=True)
class Picture:
    """An encoded image and the label that the model gives it."""

    data: bytes
    label: str


@dataclass(frozen=True)
class Limits:
    """Settings of the server that the clients exceed."""

    max_body_bytes: int
    max_images: int
    body_timeout_s: float


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


@dataclass(frozen=True)
class Request:
    """One request, and the answers that it may get: error codes or labels."""

    head: bytes
    body: bytes
    id: str
    codes: frozenset[str]  # of errors
    labels: Sequence[str] | None = None  # with 200: each image's label or error code
    plain: bool = False  # with 200: any body

    @property
    def data(self) -> bytes:
        return self.head + self.body


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


class Client:
    """Does one thing after another, chosen at random."""

    def __init__(self, crowd: Crowd, chance: random.Random, name: str) -> None:
        self._crowd, self._chance, self._name = crowd, chance, name
        self._sent = 0
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
        await self._exchange(self._any_request())

    async def _pipeline(self) -> None:
        """Send several requests at once; their answers must come in order."""
        requests = [self._any_request() for _ in range(self._chance.randint(2, 4))]
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
        data = b"".join(self._any_request().data for _ in range(self._chance.randint(1, 2)))
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
        request = self._picture_request({"body_timeout"})
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
        request = self._post(bytes(100_000), {"body_timeout"})
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
        request = self._picture_request({"body_timeout"}, Expect="100-continue")
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
        request = self._post(body, {"body_too_large"}, chunked=self._chance.random() < 0.5)
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

    # Requests.

    def _any_request(self) -> Request:
        kinds: dict[Callable[[], Request], int] = {
            self._picture_request: 40,
            self._hurried_request: 12,
            self._bad_image_request: 12,
            self._form_request: 12,
            self._json_request: 6,
            self._wrong_request: 12,
            self._operation_request: 6,
        }
        (kind,) = self._chance.choices([*kinds], [*kinds.values()])
        return kind()

    def _picture_request(self, codes: Set[str] = frozenset(), **headers: str) -> Request:
        picture = self._chance.choice(self._crowd.pictures)
        headers["X_Request_Priority"] = self._chance.choice(["high", "low", "HIGH"])
        chunked = "Expect" not in headers and self._chance.random() < 0.2
        return self._post(picture.data, codes, [picture.label], chunked=chunked, **headers)

    def _hurried_request(self) -> Request:
        picture = self._chance.choice(self._crowd.pictures)
        late = {"deadline_unreachable", "deadline_exceeded"}
        time_ms = self._chance.choice([1, 5, 20, 50, 100, 300])
        return self._post(picture.data, late, [picture.label], X_Request_Timeout_Ms=str(time_ms))

    def _bad_image(self) -> tuple[bytes, str]:
        data = self._chance.choice(self._crowd.pictures).data
        kind = self._chance.choice(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
        side = 16_000 if kind == "WEBP" else 60_000
        return self._chance.choice(
            [
                (data[: -len(data) // 3], "truncated_image"),
                (b"no image at all", "not_an_image"),
                (claiming(kind, side, side), "image_too_large"),
                (b"\x89PNG\r\n\x1a\n" + bytes(40), "corrupt_image"),
            ]
        )

    def _bad_image_request(self) -> Request:
        data, code = self._bad_image()
        return self._post(data, {code})

    def _several(self) -> tuple[list[bytes], list[str]]:
        parts, said = [], []
        for _ in range(self._chance.randint(2, self._crowd.limits.max_images)):
            picture = self._chance.choice(self._crowd.pictures)
            data, label = picture.data, picture.label
            if self._chance.random() < 0.3:
                data, label = self._bad_image()
            parts.append(data)
            said.append(label)
        return parts, said

    def _form_request(self) -> Request:
        parts, said = self._several()
        if self._chance.random() < 0.1:
            parts = parts[:1] * (self._crowd.limits.max_images + 1)
            return self._form(parts, {"too_many_images"}, None)
        return self._form(parts, {"all_images_failed"}, said)

    def _form(self, parts: list[bytes], codes: Set[str], said: list[str] | None) -> Request:
        body = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
            + part
            + b"\r\n"
            for part in parts
        )
        kind = "multipart/form-data; boundary=b"
        return self._post(body + b"--b--\r\n", codes, said, Content_Type=kind)

    def _json_request(self) -> Request:
        parts, said = self._several()
        items = [{"data": base64.b64encode(part).decode()} for part in parts]
        if self._chance.random() < 0.3:
            items[0], said[0] = {"data": "?"}, "invalid_base64"
        body = json.dumps({"images": items}).encode()
        return self._post(body, {"all_images_failed"}, said, Content_Type="application/json")

    def _wrong_request(self) -> Request:
        data = self._chance.choice(self._crowd.pictures).data
        path = "/v1/classify"
        choices: list[Callable[[], Request]] = [
            lambda: self._post(b"", {"empty_body"}),
            lambda: self._post(data, {"top_k_out_of_range"}, path=f"{path}?top_k=0"),
            lambda: self._post(data, {"invalid_parameter"}, path=f"{path}?top_k=many"),
            lambda: self._post(data, {"unknown_model"}, path=f"{path}?model=../../etc/passwd"),
            lambda: self._post(data, {"invalid_timeout"}, X_Request_Timeout_Ms="soon"),
            lambda: self._post(data, {"invalid_priority"}, X_Request_Priority="urgent"),
            lambda: self._post(data, {"unsupported_media_type"}, Content_Type="text/html"),
            lambda: self._post(data, {"unsupported_content_encoding"}, Content_Encoding="gzip"),
            lambda: self._post(b"{", {"malformed_json"}, Content_Type="application/json"),
            lambda: self._post(data, {"not_found"}, path="/v2/classify"),
            lambda: self._bodyless("GET", path, {"method_not_allowed"}),
            lambda: self._bodyless("DELETE", "/health", {"method_not_allowed"}),
            lambda: self._bodyless("GET", "/%00/../x", {"not_found"}),
            lambda: self._bodyless("GET", "/v1/models/none", {"unknown_model"}),
        ]
        return self._chance.choice(choices)()

    def _operation_request(self) -> Request:
        method = self._chance.choice(["GET", "GET", "HEAD"])
        return self._bodyless(method, self._chance.choice(["/livez", "/metrics"]), set())

    def _post(
        self,
        body: bytes,
        codes: Set[str],
        labels: list[str] | None = None,
        *,
        path: str = "/v1/classify",
        chunked: bool = False,
        **headers: str,
    ) -> Request:
        if chunked:
            headers["Transfer_Encoding"] = "chunked"
            size = max(1, len(body) // 3)
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            body = (
                b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            )
        else:
            headers["Content_Length"] = str(len(body))
        headers.setdefault("Content_Type", "image/jpeg")
        id_ = self._next_id()
        head = _head("POST", path, id_, headers)
        return Request(head, body, id_, BUSY | codes, labels)

    def _bodyless(self, method: str, path: str, codes: Set[str]) -> Request:
        id_ = self._next_id()
        head = _head(method, path, id_, {})
        return Request(head, b"", id_, frozenset(codes), plain=not codes)

    def _next_id(self) -> str:
        self._sent += 1
        return f"{self._name}-{self._sent}"


def _head(method: str, path: str, id_: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"X-Request-Id: {id_}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
