"""HTTP exchanges with the real program: requests, and the parts of answers that must not change.

An answer's ids, dates, timings and measured figures differ from run to run, and the words of
`title` and `detail` may be improved: `recorded` leaves those out.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from color_model import color_contract, write_color_model
from images import colored, encode, photo
from open_inference import image_request, json_request, pixels_of
from wire import connect, read_all

PATHS = (
    "/health", "/livez", "/readyz", "/metrics", "/v1/models", "/v1/models/color",
    "/v1/models/nope", "/v1/models/color/load", "/v1/models/color/unload", "/v1/classify", "/docs",
    "/openapi.json", "/", "/nope",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
BOUNDARY = b"cut"

RED, GREEN = colored("red"), colored("green")
FLAGS: dict[str, list[object]] = {
    "one": ["--max-body-bytes", 100_000, "--max-images", 4, "--max-image-pixels", 1_000_000],
    "many": [
        "--root-path", "/images", "--cors-origins", "https://shop.example",
        "--default-model", "color",
    ],
    "undecided": ["--coalesce"],
    "changing": ["--admin"],
}  # fmt: skip
"""Flags of the servers used for the exchanges."""

CHANGES = (
    "/v1/models/color/load", "/v1/models/color/load?version=3", "/v1/models/color/load?a=b",
    "/v1/models/nope/load", "/v1/models/nope/unload", "/v1/models/color/unload?version=2",
    "/v1/models/color/unload", "/v1/models/color/load?version=1", "/v1/models/color/rollout",
    "/v1/models/color/load", "/v1/models/color/rollout?mode=canary&percent=1",
    "/v1/models/color/rollout", "/v1/models/color/rollout?percent=101",
)  # fmt: skip
"""Requests that change what is served, in this order."""


def write_models(folder: Path) -> dict[str, Path]:
    """Write each server's model folder."""
    one, many, undecided, changing = (folder / name for name in FLAGS)
    for version in (1, 2):
        write_color_model(many / "versions" / f"{version}.onnx", color_contract(name="versions"))
    (many / "broken.onnx").write_bytes(b"no model")
    for path in (one / "color.onnx", many / "color.onnx", undecided / "color.onnx"):
        write_color_model(path)
    write_color_model(undecided / "other.onnx", color_contract(name="other"))
    for version in (1, 2):
        write_color_model(changing / "color" / f"{version}.onnx")
    return {name: folder / name for name in FLAGS}


def requests() -> Iterator[tuple[str, str, bytes]]:
    """Yield each exchange's server, name and request, as sent over the wire."""
    for path in PATHS:
        for method in METHODS:
            yield "one", f"{method} {path}", request(method, path)
    for name, (target, headers, body) in _posts().items():
        yield "one", name, request("POST", target, body, headers)
    for name, (method, target, headers, body) in _doors().items():
        yield "one", name, request(method, target, body, headers)
    for name, data in _raw().items():
        yield "one", name, data
    for name, method, target, headers in _with_many():
        yield "many", name, request(method, target, RED if method == "POST" else b"", headers)
    for name, (target, headers, body) in _undecided().items():
        yield "undecided", name, request("POST", target, body, headers)
    for number, target in enumerate(CHANGES):
        yield "changing", f"changing: {number}. POST {target}", request("POST", target)
    for number in (1, 2):
        target = "/v1/models/color/rollout"
        yield "changing", f"changing: DELETE {target}, {number}", request("DELETE", target)


def request(
    method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    fields = {"Host": "test", "Connection": "close"} | (headers or {})
    if body or method in {"POST", "PUT"}:
        fields.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v != "-")]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def part(body: bytes, *headers: str) -> bytes:
    return b"\r\n".join([b"--" + BOUNDARY, *(line.encode() for line in headers), b"", body, b""])


def form(*parts: bytes, end: bytes = b"--" + BOUNDARY + b"--\r\n") -> bytes:
    return b"".join(parts) + end


def file(body: bytes, name: str = "a.png", *headers: str) -> bytes:
    return part(body, f'Content-Disposition: form-data; name="files"; filename="{name}"', *headers)


def images(*items: Any) -> bytes:
    return json.dumps({"images": list(items)}).encode()


def item(data: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(data).decode()}


def _doors() -> dict[str, tuple[str, str, dict[str, str], bytes]]:
    """Return the requests of other protocols by name: method, target, headers, body."""
    gets = (
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/color",
        "/v2/models/color/versions/1", "/v2/models/color/versions/2", "/v2/models/nope",
        "/v2/models/color/ready", "/v2/models/color/config",
        "/v2/trace/setting", "/v2/logging", "/v2/systemsharedmemory/status", "/v2/nope", "/ping",
    )  # fmt: skip
    pixels, infer = pixels_of("green"), "/v2/models/color/infer"
    text = json.dumps(json_request(pixels, parameters={"binary_data_output": True})).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    bodies: dict[str, tuple[str, dict[str, str], bytes]] = {
        "index": ("/v2/repository/index", {}, b""),
        "load": ("/v2/repository/models/color/load", {}, b""),
        "register": ("/v2/cudasharedmemory/region/r/register", {}, b"{}"),
        "trace": ("/v2/trace/setting", {}, b'{"trace_level": ["OFF"]}'),
        "infer json": (infer, {}, json.dumps(json_request(pixels, id="7")).encode()),
        "infer binary": (infer, length, text),
        "infer raw": (infer, {"Inference-Header-Content-Length": "0"}, pixels.tobytes()),
        "infer image": (infer, {}, json.dumps(image_request(RED)).encode()),
        "infer bad image": (infer, {}, json.dumps(image_request(b"text")).encode()),
        "infer bad json": (infer, {}, b"{"),
        "infer bad tensor": (infer, {}, json.dumps(json_request(pixels[:, :4])).encode()),
        "infer too large": (infer, {}, bytes(100_001)),
        "infer brotli": (infer, {"Content-Encoding": "br"}, text),
        "predictions": ("/predictions/color", {}, RED),
        "predictions bad": ("/predictions/color", {}, b"text"),
        "invocations": ("/invocations", {"Content-Type": "application/x-image"}, RED),
    }
    found: dict[str, tuple[str, str, dict[str, str], bytes]] = {
        f"door: GET {path}": ("GET", path, {}, b"") for path in gets
    }
    found |= {f"door: {name}": ("POST", *each) for name, each in bodies.items()}
    return found | {"door: DELETE": ("DELETE", "/v2/models/color", {}, b"")}


def _posts() -> dict[str, tuple[str, dict[str, str], bytes]]:
    """Return the POST requests by name: target, headers, body."""
    path = "/v1/classify"
    png, form_type = (
        {"Content-Type": "image/png"},
        {"Content-Type": "multipart/form-data; boundary=" + BOUNDARY.decode()},
    )
    as_json = {"Content-Type": "application/json"}
    text_part = part(b"2", 'Content-Disposition: form-data; name="top_k"')
    posts = {
        f"query {query or 'empty'}": (f"{path}?{query}", png, RED)
        for query in (
            "", "top_k=1", "top_k=2", "top_k=3", "top_k=4", "top_k=0", "top_k=-1", "top_k=x",
            "top_k=", "top_k=1.0", "top_k=%32", "top_k=1&top_k=2", "topk=2", "model=color",
            "model=nope", "model=", "version=1", "version=2", "version=x", "model=color&version=1",
            "top_k=99999999999999999999", "a=b&c=d", "&", "top_k", "top_k=+2",
        )
    }  # fmt: skip
    posts |= {
        f"content type {kind}": (path, {"Content-Type": kind}, RED)
        for kind in (
            "image/jpeg", "image/anything", "IMAGE/PNG", "application/octet-stream", "text/plain",
            "application/x-www-form-urlencoded", "multipart/form-data", "multipart/mixed", "-",
            "image/png; charset=x", "", "garbage",
        )
    }  # fmt: skip
    posts |= {
        f"header {name}: {value}": (path, png | {name: value}, RED)
        for name, value in (
            ("X-Request-Timeout-Ms", "20000"), ("X-Request-Timeout-Ms", "0"),
            ("X-Request-Timeout-Ms", "x"), ("X-Request-Timeout-Ms", "99999999999"),
            ("X-Request-Priority", "low"), ("X-Request-Priority", "high"),
            ("X-Request-Priority", "urgent"), ("X-Request-Id", "abc-1.2:3_4"),
            ("X-Request-Id", "not allowed"), ("X-Request-Id", "x" * 200),
            ("Content-Encoding", "gzip"), ("Content-Encoding", ""),
            ("Content-Encoding", "identity"),
            ("Accept", "text/html"), ("Origin", "https://shop.example"), ("Expect", "100-continue"),
            ("Content-Length", "100001"), ("Transfer-Encoding", "gzip"), ("Upgrade", "websocket"),
        )
    }  # fmt: skip
    posts |= {
        "body: empty": (path, png, b""),
        "body: text": (path, png, b"I am no image"),
        "body: cut off": (path, png, RED[:50]),
        "body: damaged": (path, png, RED[:40] + b"\0\0\0\0" + RED[44:]),
        "body: jpeg": (path, png, encode(photo(64, 48), "JPEG")),
        "body: gif": (path, png, colored("green", image_format="GIF")),
        "body: bmp": (path, png, colored("green", image_format="BMP")),
        "body: tiff": (path, png, colored("green", image_format="TIFF")),
        "body: webp": (path, png, colored("green", image_format="WEBP")),
        "body: too many pixels": (path, png, colored("red", (2000, 501))),
        "body: too large": (path, png, bytes(100_001)),
        "form: one": (path, form_type, form(file(RED))),
        "form: two": (path, form_type, form(file(RED), file(GREEN, "b.png"))),
        "form: one good, one bad": (path, form_type, form(file(RED), file(b"text", "b.txt"))),
        "form: both bad": (path, form_type, form(file(b"", "a"), file(b"text", "b"))),
        "form: none": (path, form_type, form()),
        "form: no end": (path, form_type, form(file(RED), end=b"")),
        "form: five": (path, form_type, form(*[file(RED)] * 5)),
        "form: text field": (path, form_type, form(text_part, file(RED))),
        "form: only a text field": (path, form_type, form(text_part)),
        "form: base64": (
            path, form_type,
            form(file(base64.b64encode(RED), "a.png", "Content-Transfer-Encoding: base64")),
        ),
        "form: bad base64": (
            path, form_type, form(file(b"?", "a.png", "Content-Transfer-Encoding: base64")),
        ),
        "form: unknown encoding": (
            path, form_type, form(file(RED, "a.png", "Content-Transfer-Encoding: x-uu")),
        ),
        "form: empty file field": (path, form_type, form(file(b"", ""))),
        "form: preamble": (path, form_type, b"before\r\n" + form(file(RED)) + b"after"),
        "form: no form": (path, form_type, RED),
        "form: empty": (path, form_type, b""),
        "form: name in another language": (
            path, form_type,
            form(part(RED, "Content-Disposition: form-data; filename*=UTF-8''k%C3%A4.png")),
        ),
        "json: one": (path, as_json, images(item(RED))),
        "json: two": (path, as_json, images(item(RED), item(GREEN))),
        "json: data URL": (
            path, as_json, images({"data": "data:image/png;base64," + item(RED)["data"]}),
        ),
        "json: one good, one bad": (path, as_json, images(item(RED), {"data": "?"})),
        "json: bad base64": (path, as_json, images({"data": "?"})),
        "json: empty data": (path, as_json, images({"data": ""})),
        "json: no images": (path, as_json, images()),
        "json: five": (path, as_json, images(*[item(RED)] * 5)),
        "json: another form": (path, as_json, b'{"image": "x"}'),
        "json: more keys": (path, as_json, images(item(RED) | {"x": 1})),
        "json: no object": (path, as_json, b"[]"),
        "json: broken": (path, as_json, b'{"images": ['),
        "json: empty": (path, as_json, b""),
        "json: byte order mark": (path, as_json, b"\xef\xbb\xbf" + images(item(RED))),
        "json: a charset": (
            path, {"Content-Type": "application/json; charset=utf-8"}, images(item(RED)),
        ),
        "target: absolute": ("http://test/v1/classify", png, RED),
        "target: absolute without a path": ("http://test", png, RED),
        "target: slash at the end": ("/v1/classify/", png, RED),
        "target: two slashes": ("//v1/classify", png, RED),
        "target: encoded slash": ("/v1%2Fclassify", png, RED),
        "target: encoded letter": ("/v1/%63lassify", png, RED),
        "target: capitals": ("/V1/Classify", png, RED),
    }  # fmt: skip
    return posts


def _raw() -> dict[str, bytes]:
    """Return raw requests by name."""
    chunked = {"Transfer-Encoding": "chunked", "Content-Length": "-", "Content-Type": "image/png"}
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (RED[:30], RED[30:]))
    return {
        "chunked": request("POST", "/v1/classify", pieces + b"0\r\n\r\n", chunked),
        "chunked, a broken chunk": request("POST", "/v1/classify", b"zz\r\n", chunked),
        "chunked, with a trailer": request(
            "POST", "/v1/classify", pieces + b"0\r\nX-A: b\r\n\r\n", chunked
        ),
        "HTTP/1.0": b"GET /livez HTTP/1.0\r\n\r\n",
        "HTTP/1.0 kept alive": b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        b"GET /livez HTTP/1.0\r\n\r\n",
        "two in a row": request("GET", "/livez", headers={"Connection": "keep-alive"})
        + request("GET", "/v1/models"),
        "no host": b"GET /livez HTTP/1.1\r\n\r\n",
        "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "no request": b"hello\r\n\r\n",
        "another version": b"GET /livez HTTP/3.7\r\nHost: a\r\n\r\n",
        "a long head": request("GET", "/livez", headers={"X-Long": "x" * 70_000}),
        "two lengths": b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
        b"Content-Length: 2\r\n\r\nx",
        "length and coding": b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a bad target": b"GET livez HTTP/1.1\r\nHost: a\r\n\r\n",
    }


def _with_many() -> Iterator[tuple[str, str, str, dict[str, str]]]:
    png = {"Content-Type": "image/png"}
    origin = {"Origin": "https://shop.example"}
    for target in (
        "/v1/models", "/v1/models/versions", "/v1/models/versions?version=1",
        "/v1/models/versions?version=3", "/v1/models/versions?version=x", "/v1/models/broken",
        "/v1/models/color?a=b", "/health", "/readyz", "/images/livez", "/images", "/images/",
        "/images/v1/models/color", "/imagesx/livez", "/images/openapi.json",
    ):  # fmt: skip
        yield f"many: GET {target}", "GET", target, {}
    for query in (
        "", "?model=versions", "?model=versions&version=1", "?model=versions&version=2",
        "?model=versions&version=3", "?version=1", "?version=2", "?model=broken",
        "?model=broken&version=1",
    ):  # fmt: skip
        yield f"many: POST {query}", "POST", f"/v1/classify{query}", png
    yield "many: POST below the root path", "POST", "/images/v1/classify", png
    yield "many: POST from an allowed origin", "POST", "/v1/classify", png | origin
    yield "many: POST from another origin", "POST", "/v1/classify", png | {"Origin": "https://a.b"}
    yield "many: an error told to an origin", "POST", "/v1/classify?a=b", png | origin
    for name, headers in (
        ("allowed", origin | {"Access-Control-Request-Method": "POST"}),
        ("with headers", origin | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-request-id, content-type",
        }),
        ("another origin", {"Origin": "https://a.b", "Access-Control-Request-Method": "POST"}),
    ):  # fmt: skip
        yield f"many: preflight, {name}", "OPTIONS", "/v1/classify", headers


def _undecided() -> dict[str, tuple[str, dict[str, str], bytes]]:
    png = {"Content-Type": "image/png"}
    return {
        f"undecided: {query}": (f"/v1/classify{query}", png, RED)
        for query in ("", "?model=color", "?model=other&top_k=1", "?version=1")
    }


def answers(url: str, data: bytes) -> list[dict[str, Any]]:
    """Send a request and return the parts of its answers that must not change."""
    with connect(url) as connection:
        connection.sendall(data)
        received = read_all(connection)
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = [line.partition(": ")[::2] for line in lines]
        length = int(dict(headers).get("content-length", 0))
        if data.startswith(b"HEAD "):
            length = 0
        body, received = received[:length], received[length:]
        found.append(_recorded(status, headers, body))
    return found


_VARYING_HEADERS = frozenset({"date", "retry-after"})
_VARYING_KEYS = frozenset(
    {"title", "detail", "request_id", "parallelism", "tools", "sha256", "why", "reason"}
)


def _recorded(status: str, headers: list[tuple[str, str]], body: bytes) -> dict[str, Any]:
    kind = dict(headers).get("content-type", "")
    shown = []
    for name, value in headers:
        if name == "server-timing":
            value = re.sub(r"dur=[0-9.]+", "dur=*", value)  # noqa: PLW2901
        elif name == "x-request-id":
            value = re.sub(r"^[0-9a-f]{32}$", "*", value)  # noqa: PLW2901
        elif name == "allow":  # in any order
            value = ", ".join(sorted(value.split(", ")))  # noqa: PLW2901
        elif name in _VARYING_HEADERS or (name == "content-length" and value != "0"):
            value = "*"  # noqa: PLW2901
        shown.append(f"{name}: {value}")
    return {"status": status, "headers": sorted(shown), "body": _body(kind, body)}


def _body(kind: str, body: bytes) -> Any:
    if not body:
        return None
    if "json" in kind:
        parsed = json.loads(body)
        return sorted(parsed) if "openapi" in parsed else _lasting(parsed)
    if kind.startswith("text/plain"):  # the metrics: only names of metrics and labels
        return sorted(
            {
                re.sub(r'="[^"]*"|[ ]\S+$', "", line)
                for line in body.decode().splitlines()
                if line.startswith("resnet_serve_")
            }
        )
    return kind


def _lasting(value: Any, key: str = "") -> Any:
    """Replace what differs from run to run: some keys' values, and all measured numbers."""
    if key in _VARYING_KEYS or (key == "error" and isinstance(value, str)):
        return sorted(value) if isinstance(value, dict) else "*"
    if isinstance(value, dict):
        return {name: _lasting(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_lasting(each, key) for each in value]
    return "*" if isinstance(value, float) and key != "probability" else value
