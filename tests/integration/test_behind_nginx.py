"""The service behind nginx, at the root and under a path, which nginx strips or keeps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from images import encode, photo
from process import reserved_port, serving
from system import program
from wire import patient_client

pytestmark = pytest.mark.full

_CONFIGURATION = """
daemon off;
error_log stderr error;
pid {folder}/nginx.pid;
worker_processes 1;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 64m;
  client_body_buffer_size 8m;
  upstream service {{ server {address}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    location {path} {{ proxy_pass http://service{target}; }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, address: str, path: str, target: str) -> Iterator[str]:
    """Forward a path to a server; `target` replaces the path, if given."""
    file = folder / "nginx.conf"
    with reserved_port() as port:
        named = {"folder": folder, "address": address, "port": port}
        file.write_text(_CONFIGURATION.format(**named, path=path, target=target))
        command = [program("nginx"), "-p", str(folder), "-c", str(file)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            url = f"http://127.0.0.1:{port}"
            with patient_client(url, retries=8) as client:
                client.get("/")
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("path", "target", "flags"),
    [
        ("/", "", []),
        ("/images/", "/", ["--root-path", "/images"]),
        ("/images/", "", ["--root-path", "/images"]),
    ],
    ids=["root", "path taken off", "path left"],
)
def test_all_that_clients_use_works_behind_a_proxy(tmp_path, path, target, flags):
    base = path.rstrip("/")
    body = encode(photo(640, 480), "JPEG")
    with (
        serving(*flags) as server,
        nginx(tmp_path, server.url.removeprefix("http://"), path, target) as proxy,
        patient_client(proxy + base) as client,
    ):
        for _ in range(3):
            answer = client.post("/v1/classify", content=body)
            assert (answer.status_code, len(answer.json()["results"])) == (200, 1)
        files = [("files", ("a.jpg", body)), ("files", ("b.jpg", body))]
        names = [r["name"] for r in client.post("/v1/classify", files=files).json()["results"]]
        assert names == ["a.jpg", "b.jpg"]
        assert client.post("/v1/classify", content=b"none").json()["code"] == "not_an_image"
        page = client.get("/")
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert len(links) >= 6
        assert {client.get(page.url.join(link)).status_code for link in links} == {200}
        document = client.get("/openapi.json").json()
        assert [entry["url"] for entry in document.get("servers", [])] == ([base] if base else [])
        assert f'"{base}/openapi.json"' in client.get("/docs").text.replace("'", '"')
