"""Official ImageNet weights: which file for which network, and how it gets here.

Torchvision puts the first 8 hexadecimal digits of a file's SHA-256 into its name; every file is
checked against them, also one that was in the cache. Numbers are from torchvision's
`models/resnet.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from model_export.errors import DownloadError
from model_export.files import replacing, sha256_of

BASE_URL = "https://download.pytorch.org/models"
_TIMEOUT = httpx.Timeout(30, connect=10)  # seconds without any byte, not in all


@dataclass(frozen=True, slots=True)
class OfficialWeights:
    """A file of trained weights with the preprocessing that belongs to it.

    `resize` and `crop` in pixels; `top1` and `top5` in per cent on ImageNet's validation set, as
    published.
    """

    file: str
    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    top1: float
    top5: float

    @property
    def sha256_prefix(self) -> str:
        """The digits in the file's name."""
        return self.file.rpartition("-")[2].partition(".")[0]


OFFICIAL: Mapping[str, OfficialWeights] = MappingProxyType(
    {
        "resnet18": OfficialWeights("resnet18-f37072fd.pth", 256, 224, "bilinear", 69.758, 89.078),
        "resnet34": OfficialWeights("resnet34-b627a593.pth", 256, 224, "bilinear", 73.314, 91.420),
        "resnet50": OfficialWeights("resnet50-11ad3fa6.pth", 232, 224, "bilinear", 80.858, 95.434),
        "resnet101": OfficialWeights(
            "resnet101-cd907fc2.pth", 232, 224, "bilinear", 81.886, 95.780
        ),
        "resnet152": OfficialWeights(
            "resnet152-f82ba261.pth", 232, 224, "bilinear", 82.284, 96.002
        ),
    }
)
"""The newest weights of each network ("V2" in torchvision, where there are such)."""


def default_cache() -> Path:
    """Give the user's cache folder for downloads (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative path is to be ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "resnet-serve"


def fetch(official: OfficialWeights, cache: Path, *, base_url: str = BASE_URL) -> Path:
    """Give the path of the official file in `cache`, downloading it if it isn't there whole.

    Raises `DownloadError` when it can't be fetched unchanged; then the cache has no new file.
    """
    path = cache / official.file
    if path.is_file() and sha256_of(path).startswith(official.sha256_prefix):
        return path
    url = f"{base_url}/{official.file}"
    with replacing(path) as temporary:
        try:
            _download(url, temporary)
        except httpx.HTTPStatusError as error:
            raise _failed(url, path, f"the server answered {error.response.status_code}") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise _failed(url, path, f"can't be downloaded ({why})") from error
        digest = sha256_of(temporary)
        if not digest.startswith(official.sha256_prefix):
            raise _failed(
                url,
                path,
                f"the SHA-256 of what came begins with {digest[:8]}, not {official.sha256_prefix}",
            )
    return path


def _failed(url: str, path: Path, why: str) -> DownloadError:
    return DownloadError(f"{url}: {why}; download it by hand and put it at {path}")


def _download(url: str, target: Path) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    with (
        httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        target.open("wb") as file,
    ):
        response.raise_for_status()
        length = response.headers.get("Content-Length")
        task = bar.add_task(url.rpartition("/")[2], total=int(length) if length else None)
        for chunk in response.iter_bytes():
            file.write(chunk)
            bar.update(task, completed=response.num_bytes_downloaded)
