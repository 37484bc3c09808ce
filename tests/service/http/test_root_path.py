"""Behind a proxy that serves this at a path of its own, whether it takes that path off or not."""

from __future__ import annotations

import json
import re

import pytest
from images import colored, top_label

from service.errors import SettingsError

ROOT = "/images/eu"


@pytest.fixture
def client(serve):
    return serve(root_path=ROOT, cors_origins="https://shop.example")


@pytest.mark.parametrize("prefix", ["", ROOT])
def test_every_route_answers_with_the_proxys_path_and_without(client, prefix):
    """A proxy that takes it off, one that doesn't, and a probe that comes past both."""
    answer = client.post(f"{prefix}/v1/classify?top_k=1", content=colored("blue"))
    assert top_label(answer) == "blue"
    for path in ("/health", "/livez", "/readyz", "/metrics", "/v1/models", "/v1/models/color"):
        assert client.get(prefix + path).status_code == 200
    assert client.get(f"{prefix}/nowhere").status_code == 404
    assert client.get(f"{prefix}/v1/classify").status_code == 405


@pytest.mark.parametrize("prefix", ["", ROOT])
def test_the_page_and_the_apis_description_lead_through_the_proxy(client, prefix):
    description = client.get(f"{prefix}/openapi.json").json()
    assert description["servers"] == [{"url": ROOT}]
    page = client.get(f"{prefix}/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r"url: '([^']+)'", page)
    assert len(links) > 2
    for link in links:
        assert link.startswith(f"{ROOT}/")
        assert client.get(link.removeprefix(ROOT)).status_code == 200
        assert client.get(link).status_code == 200


def test_metrics_know_the_services_own_paths_only(client):
    """Else one route would have two names."""
    client.get(f"{ROOT}/v1/models/color")
    client.post(f"{ROOT}/v1/classify", content=colored())
    text = client.get("/metrics").text
    assert 'route="/v1/models/{name}"' in text
    assert 'route="/v1/classify"' in text
    assert ROOT not in text


@pytest.mark.parametrize("path", ["/images/europe/health", "/images/euro", "/images"])
def test_a_path_that_only_looks_like_it_is_none_of_ours(client, path):
    refused = client.get(path)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_without_a_root_path_the_description_names_no_server(serve):
    assert "servers" not in json.loads(serve().get("/openapi.json").text)


@pytest.mark.parametrize("path", ["/v1", "/v1/x", "/metrics", "/health/a", "/docs", "/livez"])
def test_a_path_that_could_be_meant_for_the_services_own_is_refused(serve, path):
    """A probe comes past the proxy, and must not be taken for a request from it."""
    with pytest.raises(SettingsError, match=f"must not begin with /{path.split('/')[1]}, like one"):
        serve(root_path=path)


def test_a_root_path_may_not_be_like_a_route_that_vertex_chose(serve):
    with pytest.raises(SettingsError, match="must not begin with /endpoints, like one"):
        serve(root_path="/endpoints", vertex_predict_route="/endpoints/7:predict")
