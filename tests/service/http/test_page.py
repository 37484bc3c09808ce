"""The page at / and its files, as they are sent."""

from __future__ import annotations

import re

import httpx
import pytest


def links(client: httpx.Client, path: str = "/") -> list[str]:
    return re.findall(r'(?:src|href)="([^"#]+)"', client.get(path).text)


def test_the_page_and_all_its_files_are_there(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "{root}" not in page.text
    files = [client.get(f"/{link}") for link in links(client)]
    assert len(files) >= 6
    assert {file.status_code for file in files} == {200}
    imports = re.findall(r'from "\./([^"]+)"', client.get("/web/main.js").text)
    assert imports
    for name in imports:
        answer = client.get(f"/web/{name}")
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/web/main.js", "/web/style.css", "/web/icon.svg"])
def test_nothing_but_the_pages_own_files_may_run_and_no_frame_may_hold_it(client, path):
    headers = client.get(path).headers
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/web/main.js"])
def test_a_file_that_the_browser_has_is_not_sent_again(client, path):
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)


@pytest.mark.parametrize(
    "path",
    ["/web/", "/web", "/web/nope.js", "/web/index.html", "/web/../app.py", "/web/..%2Fapp.py",
     "/web/%2e%2e/app.py", "/web/a/b", "/index.html"],
)  # fmt: skip
def test_other_paths_are_not_found(client, path):
    answer = client.get(httpx.URL(f"{client.base_url}".rstrip("/"), raw_path=path.encode()))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_page_is_only_read(client):
    answer = client.post("/", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


def test_it_can_be_left_out(serve):
    client = serve(page=False)
    for path in ("/", "/web/main.js"):
        assert client.get(path).status_code == 404
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize("path", ["/images/eu", "/images/eu/", "/"])
def test_links_lead_through_a_proxys_path(serve, path):
    client = serve(root_path="/images/eu")
    found = links(client, path)
    assert found
    assert all(link.startswith("/images/eu/") for link in found)
    assert client.get(found[0]).status_code == 200


def test_without_a_known_path_links_are_relative(client):
    """So that the page also works below a path that only the proxy knows."""
    assert not [link for link in links(client) if link.startswith("/")]


def test_there_is_a_summary_for_it(client):
    client.post("/v1/classify", content=b"no image")
    answer = client.get("/v1/summary").json()
    assert answer["requests"]["by_status"] == {"415": 1}
    assert answer["models"] == [{"name": "color", "version": 1, "images_per_s": 0, "queued": 0}]
