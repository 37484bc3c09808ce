"""API keys over HTTP: who may ask for what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from images import colored, top_label
from wire import connect, head, read_answer

from service.access.guard import Guard
from service.access.keys import new_key
from service.access.scopes import GIVEN, Scope
from service.client import Client
from service.errors import AdminOffError, ForbiddenError, RateLimitedError, UnauthorizedError
from service.http.router import guarded
from service.http.routes import OPERATIONS

RED = colored("red")


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """A key for each scope, and one that may make one request in 1000 seconds."""
    made = {str(scope): new_key(scope, (scope,), None) for scope in GIVEN}
    made |= {"slow": new_key("slow", (Scope.CLASSIFY,), 0.001)}
    (tmp_path / "keys").write_text("".join(f"{known.line()}\n" for _, known in made.values()))
    return {name: key for name, (key, _) in made.items()}


@pytest.fixture
def guarded_client(serve: Callable[..., httpx.Client], keys, tmp_path) -> httpx.Client:
    return serve(api_keys=tmp_path / "keys")


def test_every_operation_says_which_scope_it_needs():
    assert [each.path for each in OPERATIONS if each.scope is None] == []


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/models", "classify"), ("/v1/models/color", "classify"), ("/health", "metrics"),
        ("/metrics", "metrics"), ("/livez", None), ("/readyz", None), ("/docs", None),
        ("/openapi.json", None),
    ],
)  # fmt: skip
def test_each_path_takes_the_keys_with_its_scope(guarded_client, keys, path, scope):
    for name in GIVEN:
        expected = 200 if scope in {None, name} else 403
        assert guarded_client.get(path, headers=bearer(keys[name])).status_code == expected
    assert guarded_client.get(path).status_code == (200 if scope is None else 401)
    assert guarded_client.get(path, headers=bearer("shop.x")).status_code == (
        200 if scope is None else 401
    )


def test_refusals_say_what_is_needed(guarded_client, keys):
    response = guarded_client.post("/v1/classify", content=RED)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="resnet-serve"'
    assert response.json()["code"] == "unauthorized"
    response = guarded_client.post("/v1/classify", content=RED, headers=bearer(keys["metrics"]))
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert "scope classify" in response.json()["detail"]
    ask = {"content": RED, "headers": bearer(keys["slow"])}
    assert top_label(guarded_client.post("/v1/classify", **ask)) == "red"
    response = guarded_client.post("/v1/classify", **ask)
    assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
    assert int(response.headers["retry-after"]) in range(900, 1001)


def test_a_refused_body_is_not_waited_for(guarded_client):
    """Not even one that never comes."""
    with connect(str(guarded_client.base_url)) as connection:
        connection.sendall(head(Content_Length=20 * 2**20, Expect="100-continue"))
        status, body = read_answer(connection)
    assert (status, json.loads(body)["code"]) == (401, "unauthorized")


def test_metrics_count_by_name_of_key(guarded_client, keys):
    for _ in range(2):
        guarded_client.post("/v1/classify", content=RED, headers=bearer(keys["slow"]))
    guarded_client.get("/metrics", headers=bearer(keys["classify"]))
    text = guarded_client.get("/metrics", headers=bearer(keys["metrics"])).text
    for name, outcome in (
        ("slow", "admitted"), ("slow", "rate_limited"), ("classify", "forbidden"),
        ("metrics", "admitted"),
    ):  # fmt: skip
        line = f'resnet_serve_key_requests_total{{key="{name}",outcome="{outcome}"}} 1.0'
        assert line in text
    for key in keys.values():
        assert key.partition(".")[2] not in text


def test_the_client_sends_its_key_and_raises_what_is_wrong_with_it(guarded_client, keys):
    url = str(guarded_client.base_url)
    with Client(url, api_key=keys["classify"]) as client:
        assert client.classify(RED).best.label == "red"
        with pytest.raises(ForbiddenError):
            client.health()
    with Client(url) as client, pytest.raises(UnauthorizedError):
        client.classify(RED)
    with Client(url, api_key=keys["slow"], timeout=5) as client:
        client.classify(RED)
        with pytest.raises(RateLimitedError):
            client.classify(RED)


def test_the_description_says_which_keys_are_needed(guarded_client, client):
    spec = guarded_client.get("/openapi.json").json()
    classify = spec["paths"]["/v1/classify"]["post"]
    assert classify["security"] == [{"ApiKey": []}]
    assert {"401", "403", "429"} <= set(classify["responses"])
    assert "security" not in spec["paths"]["/livez"]["get"]
    assert spec["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    assert "security" not in json.dumps(client.get("/openapi.json").json())


async def handler(_: object) -> None:
    """Stands for any operation."""


@pytest.mark.parametrize("scope", [Scope.ADMIN, None])
def test_without_keys_what_needs_admin_is_off_and_so_is_what_says_nothing(scope):
    refused = guarded(handler, scope, None)
    with pytest.raises(AdminOffError, match="--api-keys"):
        refused(None).send(None)  # type: ignore[arg-type,attr-defined]


def test_without_keys_everything_else_is_the_handler_itself():
    """So that it costs nothing."""
    for scope in (Scope.PUBLIC, Scope.CLASSIFY, Scope.METRICS):
        assert guarded(handler, scope, None) is handler


def test_an_operation_that_says_nothing_needs_admin(keys, tmp_path):
    guard = Guard(tmp_path / "keys", lambda *_: None, lambda _: None)

    class Asked:
        class record:  # noqa: N801 - as an exchange has it
            key = None

        def __init__(self, key: str) -> None:
            self.headers = {b"authorization": f"Bearer {key}".encode()}

    with pytest.raises(ForbiddenError, match="scope admin"):
        guarded(handler, None, guard)(Asked(keys["classify"])).send(None)  # type: ignore[arg-type,attr-defined]
    with pytest.raises(StopIteration):
        guarded(handler, None, guard)(Asked(keys["admin"])).send(None)  # type: ignore[arg-type,attr-defined]
