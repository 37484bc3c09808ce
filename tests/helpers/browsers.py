"""Debian's Chromium, as people have it; see `system.program`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright
from system import program


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start it, with a camera that shows a test picture and needs no consent."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium"),
            args=[
                "--no-sandbox", "--disable-dev-shm-usage",
                "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
            ],
        )  # fmt: skip
        yield browser
        browser.close()
