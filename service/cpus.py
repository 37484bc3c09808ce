"""How many CPUs this process may actually use, and what they are."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_count(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use, by its affinity and its control groups' limits.

    A container limited to two CPUs still sees all of the machine's; threads for those would only
    be throttled. Fractional limits are rounded down, but to no less than 1. `/proc` and `/sys` are
    looked up below `root`.

    Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (version 1).
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return max(1, min([affinity or 1, *(int(limit) for limit in limits)]))


def cpu_model(root: Path = Path("/")) -> str:
    """Return the CPU's name and the instruction sets that matter to a model's speed on it."""
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or "unknown"
    pairs = (line.partition(":") for line in text.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    flags = set(fields.get("flags", "").split())
    known = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16")
             if name in flags]  # fmt: skip
    return f"{fields.get('model name', platform.machine())} ({', '.join(known) or 'no AVX2'})"


def has_vnni(root: Path = Path("/")) -> bool:
    """Return whether the CPU multiplies 8-bit integers without intermediate saturation."""
    return "vnni" in cpu_model(root)


def _groups(root: Path) -> list[Path]:
    """List the folders of this process's control groups and their parents; each may set a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            base = root / "sys/fs/cgroup/cpu"
        else:
            continue
        group = base / path.lstrip("/")
        # In a container the path may be the host's, with only the own group mounted, at `base`.
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return folders


def _quota(folder: Path) -> float | None:
    """Return how many CPUs a group may use, or None if it sets no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            return None
    if quota == "max" or int(quota) <= 0:
        return None
    return int(quota) / int(period)
