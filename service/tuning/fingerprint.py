"""The facts that measurements depend on, which identify them in the cache."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from service import __version__
from service.cpus import cpu_count
from service.engine.providers import Provider
from service.files import sha256_of


@lru_cache(maxsize=64)
def _sha256(model_file: Path, *_changed: int) -> str:
    """Return a file's SHA-256, cached, since a start needs the same one several times."""
    return sha256_of(model_file)


def fingerprint_of(
    model_file: Path, provider: Provider, *, device_id: int = 0, **more: Any
) -> dict[str, Any] | None:
    """Return the facts about a model on one of this machine's providers, with `more` added.

    None if the device or the library that computes can't be identified, or if the file can no
    longer be read.
    """
    device = provider.device_name(device_id)
    if device is None:
        return None
    try:
        stat = model_file.stat()
        sha256 = _sha256(model_file, stat.st_mtime_ns, stat.st_size)
        runtime = provider.version()
    except (OSError, PackageNotFoundError):
        return None
    return {
        "model_sha256": sha256,
        "provider": provider.name,
        "device": device,
        "cpus": cpu_count(),
        "runtime": runtime,
        "resnet_serve": __version__,  # session options may differ from release to release
        **more,
    }
