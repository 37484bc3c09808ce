"""Official ImageNet weights: which file belongs to which network, and how to download it.

Torchvision puts the first 8 hexadecimal digits of a file's SHA-256 into its name; every file is
checked against them, even one from the cache. The figures are from torchvision's `models/`.
"""

from __future__ import annotations

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

from model_export.errors import DownloadError, OptionsError
from service.files import settle, sha256_of, user_cache

BASE_URL = "https://download.pytorch.org/models"
_TIMEOUT = httpx.Timeout(30, connect=10)  # seconds without any byte, not in total
_ATTEMPTS = 4  # in a row, each continuing where the last one ended
_PARTIAL_CONTENT, _BAD_RANGE = 206, 416


@dataclass(frozen=True, slots=True)
class OfficialWeights:
    """A file of trained weights with its preprocessing.

    `resize` and `crop` are in pixels; `top1` and `top5` in per cent on ImageNet's validation set,
    as published.
    """

    file: str
    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    top1: float
    top5: float

    @property
    def sha256_prefix(self) -> str:
        """Return the digits in the file's name."""
        return self.file.rpartition("-")[2].partition(".")[0]


def _bilinear(file: str, resize: int, top1: float, top5: float) -> OfficialWeights:
    return OfficialWeights(file, resize, 224, "bilinear", top1, top5)


OFFICIAL: Mapping[str, OfficialWeights] = MappingProxyType(
    {
        "resnet18": _bilinear("resnet18-f37072fd.pth", 256, 69.758, 89.078),
        "resnet34": _bilinear("resnet34-b627a593.pth", 256, 73.314, 91.420),
        "resnet50": _bilinear("resnet50-11ad3fa6.pth", 232, 80.858, 95.434),
        "resnet101": _bilinear("resnet101-cd907fc2.pth", 232, 81.886, 95.780),
        "resnet152": _bilinear("resnet152-f82ba261.pth", 232, 82.284, 96.002),
        "resnext50_32x4d": _bilinear("resnext50_32x4d-1a0047aa.pth", 232, 81.198, 95.340),
        "resnext101_32x8d": _bilinear("resnext101_32x8d-110c445d.pth", 232, 82.834, 96.228),
        "resnext101_64x4d": _bilinear("resnext101_64x4d-173b62eb.pth", 232, 83.246, 96.454),
        "wide_resnet50_2": _bilinear("wide_resnet50_2-9ba9bcbe.pth", 232, 81.602, 95.758),
        "wide_resnet101_2": _bilinear("wide_resnet101_2-d733dc28.pth", 232, 82.510, 96.020),
        "densenet121": _bilinear("densenet121-a639ec97.pth", 256, 74.434, 91.972),
        "densenet161": _bilinear("densenet161-8d451a50.pth", 256, 77.138, 93.560),
        "densenet169": _bilinear("densenet169-b2777c0a.pth", 256, 75.600, 92.806),
        "densenet201": _bilinear("densenet201-c1103571.pth", 256, 76.896, 93.370),
        "mobilenet_v2": _bilinear("mobilenet_v2-7ebf99e0.pth", 232, 72.154, 90.822),
        "mobilenet_v3_large": _bilinear("mobilenet_v3_large-5c1a4163.pth", 232, 75.274, 92.566),
        "alexnet": _bilinear("alexnet-owt-7be5be79.pth", 256, 56.522, 79.066),
    }
)
"""The newest weights of each network ("V2" in torchvision, if they exist)."""

TIMM: Mapping[str, str] = MappingProxyType(
    {
        "seresnet50": "timm/seresnet50.a1_in1k",
        "resnet18d": "timm/resnet18d.ra2_in1k",
        "resnet34d": "timm/resnet34d.ra2_in1k",
        "resnet50d": "timm/resnet50d.ra2_in1k",
        "resnet101d": "timm/resnet101d.ra2_in1k",
        "resnet152d": "timm/resnet152d.ra2_in1k",
        "ecaresnet50d": "timm/ecaresnet50d.miil_in1k",
        "resnest50d": "timm/resnest50d.in1k",
        "resnest101e": "timm/resnest101e.in1k",
        "botnet26t_256": "timm/botnet26t_256.c1_in1k",
    }
)
"""Where the Hugging Face hub has timm's weights of networks that torchvision lacks.

They are not downloaded, since no checksum of them is known here.
"""


def known_weights(architecture: str, sha256: str) -> OfficialWeights | None:
    """Recognise official weights by their checksum, even if they were downloaded by hand."""
    official = OFFICIAL.get(architecture)
    return official if official and sha256.startswith(official.sha256_prefix) else None


def official_weights(architecture: str) -> OfficialWeights:
    """Return the official weights of a network; raises `OptionsError` if there are none."""
    if architecture in TIMM:
        raise OptionsError(
            f"torchvision has no weights for {architecture}; timm's are at "
            f"https://huggingface.co/{TIMM[architecture]}: pass their file to --weights, and the "
            "preprocessing that their config.json states to --resize and the like"
        )
    if architecture not in OFFICIAL:
        raise OptionsError(
            f"there are no official weights for {architecture}; pass a file to --weights "
            "(`resnet-export list` shows which networks have them)"
        )
    return OFFICIAL[architecture]


def cache_folder(given: Path | None) -> Path:
    """Return the folder for downloads. Raises `OptionsError` if none is given or known."""
    folder = given or user_cache()
    if folder is None:
        raise OptionsError("--cache-dir: is required, since this user has no home folder")
    return folder


def fetch(official: OfficialWeights, cache: Path, *, base_url: str = BASE_URL) -> Path:
    """Return the path of the official file in `cache`, downloading it if needed.

    An interrupted download stays beside it as `.part`, and the next one continues from there.
    Raises `DownloadError` if the file can't be downloaded unchanged; then it is not in `cache`.
    """
    path = cache / official.file
    if path.is_file() and sha256_of(path).startswith(official.sha256_prefix):
        return path
    url = f"{base_url}/{official.file}"
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    resumed = _download(url, partial, path)
    digest = sha256_of(partial)
    if resumed and not digest.startswith(official.sha256_prefix):
        # The part may have been of another file: try again from the start.
        partial.unlink()
        _download(url, partial, path)
        digest = sha256_of(partial)
    if not digest.startswith(official.sha256_prefix):
        partial.unlink()
        raise _failed(
            url,
            path,
            f"the download's SHA-256 begins with {digest[:8]}, not {official.sha256_prefix}",
        )
    settle(partial, path)
    return path


def _failed(url: str, path: Path, why: str) -> DownloadError:
    return DownloadError(f"{url}: {why}; download it by hand and put it at {path}")


def _download(url: str, partial: Path, path: Path) -> bool:
    """Download to `partial`, continuing where it ends; return whether it had any content."""
    began_with = partial.stat().st_size if partial.exists() else 0
    for attempt in range(1, _ATTEMPTS + 1):
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _go_on(url, partial)
        except httpx.HTTPStatusError as error:
            raise _failed(url, path, f"the server answered {error.response.status_code}") from error
        except (ImportError, ValueError) as error:  # a kind of proxy that httpx does not support
            raise _failed(url, path, f"can't be downloaded ({error})") from error
        except httpx.HTTPError as error:
            came = (partial.stat().st_size if partial.exists() else 0) - before
            if attempt == _ATTEMPTS or came <= 0:
                why = str(error) or type(error).__name__
                raise _failed(url, path, f"can't be downloaded ({why})") from error
        else:
            break
    return began_with > 0


def _go_on(url: str, partial: Path) -> None:
    """Request the missing rest; a server without support for ranges sends everything again."""
    have = partial.stat().st_size if partial.exists() else 0
    # Ranges count encoded bytes, but these must be the file's.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    with (
        httpx.stream(
            "GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True
        ) as answer,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        if answer.status_code == _BAD_RANGE and have:
            return  # there is no more; the checksum will show whether it is right
        answer.raise_for_status()
        if answer.status_code != _PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        task = bar.add_task(url.rpartition("/")[2], total=total, completed=have)
        with partial.open("ab" if have else "wb") as file:
            for chunk in answer.iter_raw():
                file.write(chunk)
                bar.update(task, completed=have + answer.num_bytes_downloaded)
