"""What measurements depend on, as the cache keeps it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from service import __version__
from service.cpus import cpu_count, cpu_model
from service.engine.providers import gpu_name, installed_runtime


def facts_of(
    model_file: Path, provider: str, *, device_id: int = 0, **more: Any
) -> dict[str, Any] | None:
    """Give the facts for a model on a provider of this machine, and `more` of the measurement.

    None where the device can't be told from others, or the file can't be read any more.
    """
    device = gpu_name(device_id) if provider == "cuda" else cpu_model()
    if device is None:
        return None
    try:
        with model_file.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return {
        "model_sha256": sha256,
        "provider": provider,
        "device": device,
        "cpus": cpu_count(),
        "runtime": installed_runtime(),
        "resnet_serve": __version__,  # session options may differ from release to release
        **more,
    }
