"""The JavaScript of the documentation, in a browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsers import chromium
from playwright.sync_api import Page, expect
from process import serving

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
(PAGE,) = re.findall(
    r"```html\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(encoding="utf-8"), re.DOTALL
)


class Site(ThreadingHTTPServer):
    """A site of its own, whose only page asks the service."""

    page = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.server, Site)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(self.server.page)

        def log_message(self, *_: object) -> None:
            pass

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def opened(site: Site, service_url: str) -> Iterator[Page]:
    site.page = PAGE.replace("http://127.0.0.1:8000", service_url).encode()
    with chromium() as browser:
        page = browser.new_page()
        page.goto(site.url)
        yield page


def test_it_shows_the_best_label_and_what_is_wrong():
    """From another origin, which the service allows."""
    with (
        site() as other,
        serving("--cors-origins", other.url) as server,
        opened(other, server.url) as page,
    ):
        answer = page.get_by_role("status")
        page.get_by_label("Photo").set_input_files(ROOT / "examples" / "cat.jpg")
        expect(answer).to_have_text("tabby (69.9 %)")
        page.get_by_label("Photo").set_input_files(ROOT / "LICENSE")
        expect(answer).to_contain_text(
            "Not an accepted image format: the content is not in an accepted image format (JPEG"
        )


def test_an_error_that_has_no_details_is_shown_too():
    """As one that a proxy in front of the service made."""
    refusal = {"status": 502, "body": "<html>", "headers": {"Access-Control-Allow-Origin": "*"}}
    with (
        site() as other,
        serving("--cors-origins", other.url) as server,
        opened(other, server.url) as page,
    ):
        page.route("**/v1/classify*", lambda route: route.fulfill(**refusal))
        page.get_by_label("Photo").set_input_files(ROOT / "examples" / "cat.jpg")
        expect(page.get_by_role("status")).to_have_text("Error 502: no details were given")


def test_a_service_that_does_not_allow_the_origin_is_not_read():
    with site() as other, serving() as server, opened(other, server.url) as page:
        page.get_by_label("Photo").set_input_files(ROOT / "examples" / "cat.jpg")
        expect(page.get_by_role("status")).to_have_text("Failed to fetch")
