"""Official weights arrive whole and unchanged, or not at all."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model_export.architectures import ARCHITECTURES
from model_export.errors import DownloadError, OptionsError
from model_export.weights import (
    OFFICIAL,
    TIMM,
    OfficialWeights,
    cache_folder,
    fetch,
    official_weights,
)

CONTENT = bytes(range(256)) * 2000
NAME = f"tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
TINY = OfficialWeights(NAME, 256, 224, "bilinear", 50.0, 75.0)


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, FileServer)
        server.requests.append(self.path)
        if server.moved and not self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"/moved{self.path}")
            self.end_headers()
            return
        body = server.files.get(self.path.rpartition("/")[2])
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if server.knows_ranges else 0
        server.starts.append(start)
        if body and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = (body or b"")[start:]
        self.send_response((206 if start else 200) if body else 404)
        self.send_header("Content-Length", str(len(part) + server.missing_bytes))
        self.end_headers()
        self.wfile.write(part[: server.at_most])
        if server.at_most < len(part):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


class FileServer(ThreadingHTTPServer):
    """Serves `files` by name and keeps the paths asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.files = {NAME: CONTENT}
        self.requests: list[str] = []
        self.starts: list[int] = []  # first bytes that were sent
        self.missing_bytes = 0  # announced, but never sent
        self.at_most = 1 << 30  # bytes sent before the connection breaks
        self.knows_ranges = True
        self.moved = False
        self.url = f"http://127.0.0.1:{self.server_port}/models"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def assert_helpful(error: DownloadError, url: str, path: Path) -> None:
    """One line that says what to download by hand and where to put it."""
    assert f"{url}/{NAME}: " in str(error)
    assert str(error).endswith(f"download it by hand and put it at {path / NAME}")
    assert "\n" not in str(error)


def test_a_file_is_downloaded_once(server: FileServer, tmp_path: Path):
    """The second time it comes from the cache."""
    for _ in range(2):
        path = fetch(TINY, tmp_path / "cache", base_url=server.url)
        assert path.read_bytes() == CONTENT
    assert server.requests == [f"/models/{NAME}"]
    assert list(path.parent.iterdir()) == [path]


def test_redirects_are_followed(server: FileServer, tmp_path: Path):
    """As a mirror may answer."""
    server.moved = True
    assert fetch(TINY, tmp_path, base_url=server.url).read_bytes() == CONTENT


def test_a_damaged_cached_file_is_fetched_again(server: FileServer, tmp_path: Path):
    """The cache is checked, not trusted."""
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert fetch(TINY, tmp_path, base_url=server.url).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_needs_no_network(tmp_path: Path):
    """As the error about a missing network says."""
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(TINY, tmp_path, base_url="http://127.0.0.1:1") == tmp_path / NAME


def test_a_broken_download_goes_on_where_it_ended(server: FileServer, tmp_path: Path):
    """By itself, while something comes each time."""
    server.at_most = len(CONTENT) // 3 + 1
    assert fetch(TINY, tmp_path, base_url=server.url).read_bytes() == CONTENT
    assert server.starts == [0, server.at_most, 2 * server.at_most]
    assert list(tmp_path.iterdir()) == [tmp_path / NAME]


def test_the_next_run_goes_on_too(server: FileServer, tmp_path: Path):
    """What came is kept, but not under the file's name."""
    server.at_most = len(CONTENT) // 8
    server.knows_ranges = False  # so that nothing more comes
    with pytest.raises(DownloadError, match="can't be downloaded") as caught:
        fetch(TINY, tmp_path, base_url=server.url)
    assert_helpful(caught.value, server.url, tmp_path)
    (partial,) = tmp_path.iterdir()
    assert partial.name == f"{NAME}.part"
    came = partial.stat().st_size
    server.starts.clear()
    server.at_most, server.knows_ranges = 1 << 30, True
    assert fetch(TINY, tmp_path, base_url=server.url).read_bytes() == CONTENT
    assert server.starts == [came]


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path):
    server.knows_ranges = False
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    assert fetch(TINY, tmp_path, base_url=server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [CONTENT[:-1] + b"?", b"?" * 1000, CONTENT + b"?"])
def test_the_rest_of_another_file_is_thrown_away(server: FileServer, tmp_path: Path, rest: bytes):
    """What was there does not go with what comes: once more from the start."""
    (tmp_path / f"{NAME}.part").write_bytes(rest)
    assert fetch(TINY, tmp_path, base_url=server.url).read_bytes() == CONTENT
    assert server.starts[-1] == 0


def test_another_checksum_leaves_no_file(server: FileServer, tmp_path: Path):
    """Whole, but not the file that was asked for."""
    server.files[NAME] = CONTENT[::-1]
    with pytest.raises(DownloadError, match=f"not {TINY.sha256_prefix}") as caught:
        fetch(TINY, tmp_path, base_url=server.url)
    assert_helpful(caught.value, server.url, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_said(server: FileServer, tmp_path: Path):
    """With the server's status."""
    server.files.clear()
    with pytest.raises(DownloadError, match="answered 404") as caught:
        fetch(TINY, tmp_path, base_url=server.url)
    assert_helpful(caught.value, server.url, tmp_path)


def test_no_network_is_said(server: FileServer, tmp_path: Path):
    """Nobody listens any more."""
    server.server_close()
    with pytest.raises(DownloadError, match="can't be downloaded") as caught:
        fetch(TINY, tmp_path, base_url=server.url)
    assert_helpful(caught.value, server.url, tmp_path)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_is_not_spoken_is_said(
    server: FileServer, tmp_path: Path, proxy: str, monkeypatch: pytest.MonkeyPatch
):
    """And what to do instead."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(DownloadError, match="download it by hand"):
        fetch(TINY, tmp_path, base_url=server.url)


def test_the_table_names_files_as_torchvision_does():
    """The digits of the checksum are in the name."""
    for architecture, official in OFFICIAL.items():
        assert re.fullmatch(rf"{architecture}(-owt)?-[0-9a-f]{{8}}\.pth", official.file)
        assert official.file.endswith(f"-{official.sha256_prefix}.pth")
        assert official.crop <= official.resize
        assert 0 < official.top1 < official.top5 < 100


def test_where_torchvision_has_none_timms_are_named():
    """To be fetched by hand, as there is no checksum to check them against."""
    assert TIMM.keys().isdisjoint(OFFICIAL)
    assert TIMM.keys() <= ARCHITECTURES.keys()
    with pytest.raises(
        OptionsError, match=r"co/timm/resnest50d\.in1k: pass their file to --weights"
    ):
        official_weights("resnest50d")
    with pytest.raises(OptionsError, match="no official weights for dilated_resnet50; pass a file"):
        official_weights("dilated_resnet50")


def test_without_a_home_the_cache_has_to_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setattr("model_export.weights.user_cache", lambda: None)
    with pytest.raises(OptionsError, match="--cache-dir: is required"):
        cache_folder(None)
