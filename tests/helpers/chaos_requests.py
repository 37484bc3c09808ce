"""The requests of clients that do everything at once, each with the answers that it may get."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from images import claiming

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


class Requests:
    """Makes a client's requests, of kinds chosen at random, with ids of its own."""

    def __init__(
        self, pictures: Sequence[Picture], limits: Limits, chance: random.Random, name: str
    ) -> None:
        self._pictures, self._limits, self._chance, self._name = pictures, limits, chance, name
        self._sent = 0

    def any(self) -> Request:
        """Make a request of any kind: right, wrong, or in a hurry."""
        kinds: dict[Callable[[], Request], int] = {
            self.picture: 40,
            self._hurried: 12,
            self._bad_image: 12,
            self._form: 12,
            self._json: 6,
            self._wrong: 12,
            self._operation: 6,
        }
        (kind,) = self._chance.choices([*kinds], [*kinds.values()])
        return kind()

    def picture(self, codes: Set[str] = frozenset(), **headers: str) -> Request:
        """Make a good request, which may also get the errors `codes`."""
        picture = self._chance.choice(self._pictures)
        headers["X_Request_Priority"] = self._chance.choice(["high", "low", "HIGH"])
        chunked = "Expect" not in headers and self._chance.random() < 0.2
        return self.post(picture.data, codes, [picture.label], chunked=chunked, **headers)

    def _hurried(self) -> Request:
        picture = self._chance.choice(self._pictures)
        late = {"deadline_unreachable", "deadline_exceeded"}
        time_ms = self._chance.choice([1, 5, 20, 50, 100, 300])
        return self.post(picture.data, late, [picture.label], X_Request_Timeout_Ms=str(time_ms))

    def _broken(self) -> tuple[bytes, str]:
        data = self._chance.choice(self._pictures).data
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

    def _bad_image(self) -> Request:
        data, code = self._broken()
        return self.post(data, {code})

    def _several(self) -> tuple[list[bytes], list[str]]:
        parts, said = [], []
        for _ in range(self._chance.randint(2, self._limits.max_images)):
            picture = self._chance.choice(self._pictures)
            data, label = picture.data, picture.label
            if self._chance.random() < 0.3:
                data, label = self._broken()
            parts.append(data)
            said.append(label)
        return parts, said

    def _form(self) -> Request:
        parts, said = self._several()
        if self._chance.random() < 0.1:
            parts = parts[:1] * (self._limits.max_images + 1)
            return self._multipart(parts, {"too_many_images"}, None)
        return self._multipart(parts, {"all_images_failed"}, said)

    def _multipart(self, parts: list[bytes], codes: Set[str], said: list[str] | None) -> Request:
        body = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
            + part
            + b"\r\n"
            for part in parts
        )
        kind = "multipart/form-data; boundary=b"
        return self.post(body + b"--b--\r\n", codes, said, Content_Type=kind)

    def _json(self) -> Request:
        parts, said = self._several()
        items = [{"data": base64.b64encode(part).decode()} for part in parts]
        if self._chance.random() < 0.3:
            items[0], said[0] = {"data": "?"}, "invalid_base64"
        body = json.dumps({"images": items}).encode()
        return self.post(body, {"all_images_failed"}, said, Content_Type="application/json")

    def _wrong(self) -> Request:
        data = self._chance.choice(self._pictures).data
        path = "/v1/classify"
        choices: list[Callable[[], Request]] = [
            lambda: self.post(b"", {"empty_body"}),
            lambda: self.post(data, {"top_k_out_of_range"}, path=f"{path}?top_k=0"),
            lambda: self.post(data, {"invalid_parameter"}, path=f"{path}?top_k=many"),
            lambda: self.post(data, {"unknown_model"}, path=f"{path}?model=../../etc/passwd"),
            lambda: self.post(data, {"invalid_timeout"}, X_Request_Timeout_Ms="soon"),
            lambda: self.post(data, {"invalid_priority"}, X_Request_Priority="urgent"),
            lambda: self.post(data, {"unsupported_media_type"}, Content_Type="text/html"),
            lambda: self.post(data, {"unsupported_content_encoding"}, Content_Encoding="gzip"),
            lambda: self.post(b"{", {"malformed_json"}, Content_Type="application/json"),
            lambda: self.post(data, {"not_found"}, path="/v2/classify"),
            lambda: self._bodyless("GET", path, {"method_not_allowed"}),
            lambda: self._bodyless("DELETE", "/health", {"method_not_allowed"}),
            lambda: self._bodyless("GET", "/%00/../x", {"not_found"}),
            lambda: self._bodyless("GET", "/v1/models/none", {"unknown_model"}),
        ]
        return self._chance.choice(choices)()

    def _operation(self) -> Request:
        method = self._chance.choice(["GET", "GET", "HEAD"])
        return self._bodyless(method, self._chance.choice(["/livez", "/metrics"]), set())

    def post(
        self,
        body: bytes,
        codes: Set[str],
        labels: list[str] | None = None,
        *,
        path: str = "/v1/classify",
        chunked: bool = False,
        **headers: str,
    ) -> Request:
        """Make a request with a body; without labels, it may only get one of the errors."""
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
