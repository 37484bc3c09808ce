"""The page at /, in a browser, as people use it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from browsers import chromium
from color_model import color_contract, write_color_model
from images import colored, encode, photo
from playwright.sync_api import Browser, FilePayload, Page, Route, expect
from process import Serving, serving

pytestmark = pytest.mark.full

FAILED_REQUEST = "Failed to load resource: "
"""How a browser's console begins to report a request that failed."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Serving]:
    """A server with a model that has all outputs, and one that has none."""
    folder = tmp_path_factory.mktemp("models")
    write_color_model(folder / "color.onnx", extra_outputs=True)
    write_color_model(folder / "plain.onnx", color_contract(name="plain"))
    with serving("--models", folder, "--default-model", "color") as server:
        server.wait_for("model_ready")
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@contextmanager
def opened(browser: Browser, url: str, *, failures: bool = False, **options) -> Iterator[Page]:
    """Open the page; afterwards, it must have asked no other host and reported no error.

    With `failures`, requests of the page may have failed.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(url)
    expect(page.locator("#about")).not_to_be_empty()
    yield page
    context.close()
    assert {httpx.URL(each.removeprefix("blob:")).netloc for each in asked} == {
        httpx.URL(url).netloc
    }
    assert not [each for each in errors if not (failures and each.startswith(FAILED_REQUEST))]


def given(name: str, data: bytes, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def drop(page: Page, *paths: Path) -> None:
    """Drop files or folders on the page, as a file manager does."""
    box = page.locator("#drop").bounding_box()
    assert box is not None
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    where = {"x": box["x"] + 20, "y": box["y"] + 20}
    browser = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "data": data, **where})


def posts(server: Serving) -> int:
    """Return how many requests that run models have been answered."""
    counts = re.findall(
        r'^resnet_serve_requests_total{method="POST",.* (\S+)$',
        httpx.get(f"{server.url}/metrics").text,
        re.MULTILINE,
    )
    return sum(int(float(count)) for count in counts)


def best_label(page: Page) -> str:
    return page.locator("#cards .labels .name").first.inner_text()


def test_a_photo_that_is_dropped_gets_its_label(browser, server, tmp_path):
    (tmp_path / "sky.png").write_bytes(colored("blue"))
    with opened(browser, server.url) as page:
        drop(page, tmp_path / "sky.png")
        card = page.get_by_role("article", name="sky.png")
        expect(card.locator(".labels button")).to_have_count(3)
        assert best_label(page) == "blue"
        expect(card.locator(".legend .total")).to_contain_text("ms")
        expect(page.get_by_role("status")).to_contain_text("sky.png: blue, ")


def test_a_folder_that_is_dropped_has_its_photos_classified(browser, server, tmp_path):
    """Those in folders within it too, but no hidden files."""
    (tmp_path / "trip" / "day 1").mkdir(parents=True)
    (tmp_path / "trip" / "a.png").write_bytes(colored("red"))
    (tmp_path / "trip" / "day 1" / "b.png").write_bytes(colored("blue"))
    (tmp_path / "trip" / ".thumbnails").write_bytes(b"no image")
    (tmp_path / "c.png").write_bytes(colored("green"))
    with opened(browser, server.url) as page:
        drop(page, tmp_path / "trip", tmp_path / "c.png")
        for name, color in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
            card = page.get_by_role("article", name=name)
            expect(card.locator(".labels .name").first).to_have_text(color)
        expect(page.get_by_role("article")).to_have_count(3)


def test_a_label_shows_its_evidence_over_the_photo(browser, server):
    with opened(browser, server.url) as page:
        page.set_input_files("#files", given("a.png", encode(photo(120, 80))))
        button = page.locator(".labels button").nth(1)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        shown = page.locator(".map")
        expect(shown).to_be_visible()
        assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 80]
        button.click()
        expect(shown).to_be_hidden()


def test_several_at_once_and_a_bad_one_among_them(browser, server):
    """It is told what is wrong, and can be tried again; the others get their labels."""
    with opened(browser, server.url, failures=True) as page:
        files = [given(f"{color}.png", colored(color)) for color in ("red", "green", "blue")]
        page.set_input_files("#files", [*files, given("notes.txt", b"no image", "text/plain")])
        for color in ("red", "green", "blue"):
            card = page.get_by_role("article", name=f"{color}.png")
            expect(card.locator(".labels .name").first).to_have_text(color)
        bad = page.get_by_role("article", name="notes.txt")
        expect(bad.locator(".problem")).to_contain_text("Not an accepted image format")
        expect(bad.locator(".problem")).to_contain_text("JPEG, PNG, WEBP")
        bad.get_by_role("button", name="Try again").click()
        expect(bad.locator(".problem")).to_be_visible()
        page.get_by_role("button", name="Remove all").click()
        expect(page.get_by_role("article")).to_have_count(0)


def test_a_format_that_the_browser_does_not_know_is_shown_by_the_service(browser, server):
    with opened(browser, server.url) as page:
        tiff = encode(photo(90, 60), "TIFF")
        page.set_input_files("#files", given("scan.tiff", tiff, "image/tiff"))
        expect(page.locator(".map")).to_be_visible()


def test_another_model_can_be_chosen_and_may_have_no_maps(browser, server):
    with opened(browser, server.url, failures=True) as page:
        assert page.locator("#model option").all_inner_texts() == ["color", "plain"]
        assert page.locator("#model").input_value() == "color"
        page.select_option("#model", "plain")
        page.set_input_files("#files", given("a.png", colored("red")))
        expect(page.locator(".card .soft").first).to_contain_text("plain")
        page.locator(".labels button").first.click()
        expect(page.locator(".hint")).to_contain_text("does not have what activation maps")
        expect(page.locator(".map")).to_be_hidden()


def test_the_live_view_moves_until_it_is_paused(browser, server):
    with opened(browser, server.url) as page:
        total = page.locator(".pairs div", has_text="since the start").locator("dd")
        for _ in range(2):
            for _ in range(5):
                httpx.post(f"{server.url}/v1/classify", content=colored()).raise_for_status()
            expect(total).to_have_text(f"{posts(server):,}")
        expect(page.locator(".live")).to_contain_text("p99")
        expect(page.locator(".spark polyline")).to_have_count(1)
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("button", name="Resume")).to_be_visible()


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_systems_theme_is_shown_until_another_is_chosen_and_kept(browser, server, system):
    def is_dark(page: Page) -> bool:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color.removeprefix("rgb(").rstrip(")").split(",")) < 150

    with opened(browser, server.url, color_scheme=system) as page:
        toggle = page.get_by_role("button", name="Dark theme")
        assert is_dark(page) == (system == "dark")
        expect(toggle).to_have_attribute("aria-pressed", str(system == "dark").lower())
        toggle.click()
        assert is_dark(page) == (system == "light")
        page.reload()
        assert is_dark(page) == (system == "light")
        expect(toggle).to_have_attribute("aria-pressed", str(system == "light").lower())


def test_the_keyboard_is_enough(browser, server):
    """From the top: theme, photos, model, labels and removal, each with a visible focus."""
    with opened(browser, server.url) as page:
        page.set_input_files("#files", given("a.png", colored("green")))
        expect(page.locator(".labels button")).to_have_count(3)
        reached = []
        while not page.locator(".labels button:focus").count():
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.id || document.activeElement.className")
            )
            assert len(reached) < 20
        assert [each for each in reached if each] == [
            "theme", "files", "camera", "model", "clear", "quiet close",
        ]  # fmt: skip
        page.keyboard.press("Enter")
        expect(page.locator(".map")).to_be_visible()
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.get_by_role("button", name="Remove a.png").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("article")).to_have_count(0)
        assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_off_at_the_side(browser, server, width):
    viewport = {"width": width, "height": 800}
    with opened(browser, server.url, viewport=viewport) as page:
        name = "a-very-long-name-" * 8 + ".png"
        page.set_input_files("#files", given(name, colored("red")))
        expect(page.locator(".labels button")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_works_behind_a_proxy_at_a_path_of_its_own(browser, tmp_path):
    write_color_model(tmp_path / "color.onnx", extra_outputs=True)
    with serving("--models", tmp_path, "--root-path", "/images/eu") as server:
        for path in ("/images/eu", "/images/eu/"):
            with opened(browser, server.url + path) as page:
                page.set_input_files("#files", given("a.png", colored("red")))
                expect(page.locator(".labels button")).to_have_count(3)
                expect(page.locator(".live")).to_contain_text("per second")


def test_a_service_that_is_gone_is_said_to_be(browser, tmp_path):
    write_color_model(tmp_path / "color.onnx")
    with (
        serving("--models", tmp_path) as server,
        opened(browser, server.url, failures=True) as page,
    ):
        server.process.kill()
        server.process.wait(30)
        page.set_input_files("#files", given("a.png", colored("red")))
        expect(page.locator(".problem")).to_contain_text("The service can't be reached")
        expect(page.locator("#live-error")).to_contain_text("No answer")


def test_a_photo_is_taken_with_the_camera(browser, server):
    """Of the browser's test picture; the dialog can also be left without one."""
    with opened(browser, server.url) as page:
        page.get_by_role("button", name="Use the camera").click()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.get_by_role("button", name="Use the camera").click()
        page.get_by_role("button", name="Take photo").click()
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator(".labels button")).to_have_count(3)
        expect(page.get_by_role("article")).to_have_count(1)
        assert page.locator("video").evaluate("video => video.srcObject") is None, "it is off"


def test_a_picture_is_pasted(browser, server):
    with opened(browser, server.url) as page:
        page.evaluate(
            """(data) => {
                const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                const clipboardData = new DataTransfer();
                clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
                document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
            }""",
            base64.b64encode(colored("red")).decode(),
        )
        expect(page.locator(".labels .name").first).to_have_text("red")


def test_a_key_is_asked_for_where_one_is_needed_and_sent_from_then_on(browser, server):
    """The service's answers are replaced here, as a proxy with keys of its own would do."""
    refusal = {"title": "An API key is needed", "status": 401, "detail": "none was sent"}

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer the key":
            route.continue_()
        else:
            route.fulfill(status=401, content_type="application/problem+json", json=refusal)

    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/*", guard)
    page.goto(server.url)
    expect(page.get_by_role("alert").first).to_have_text("An API key is needed. None was sent.")
    page.get_by_label("API key").fill("the key")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#about")).not_to_be_empty()
    expect(page.get_by_label("API key")).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.set_input_files("#files", given("a.png", colored("red")))
    expect(page.locator(".labels .name").first).to_have_text("red")
    expect(page.locator(".live")).to_contain_text("since the start")
    page.reload()
    expect(page.locator("#about")).not_to_be_empty()
    context.close()


def test_the_services_own_keys_are_taken_and_the_rest_works_without_the_live_view(
    browser, tmp_path
):
    """With a key that may only classify."""
    write_color_model(tmp_path / "models" / "color.onnx")
    keys = Path(__file__).parents[1] / "helpers" / "keys.txt"
    context = browser.new_context()
    with serving("--models", tmp_path / "models", "--api-keys", keys) as guarded:
        page = context.new_page()
        page.goto(guarded.url)
        page.get_by_label("API key").fill("classify.secret")
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#about")).not_to_be_empty()
        page.set_input_files("#files", given("a.png", colored("red")))
        expect(page.locator(".labels .name").first).to_have_text("red")
        expect(page.locator("#live-error")).to_contain_text("needs a key with the scope metrics")
    context.close()


def test_the_version_that_answers_others_is_chosen_first(browser, tmp_path):
    for version in (1, 2):
        write_color_model(tmp_path / "models" / "color" / f"{version}.onnx")
    flags = ["--models", tmp_path / "models", "--model-versions", "color=1"]
    with serving(*flags) as pinned, opened(browser, pinned.url) as page:
        expect(page.locator("#model")).to_have_value(re.compile("^color 1"))
