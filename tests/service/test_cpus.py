"""CPUs by affinity and control groups, read from files that a test writes."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from service.cpus import cpu_count, cpu_model, has_vnni


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Gives a function that lays out a machine of 16 CPUs with given files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    def lay_out(cgroup: str, **files: str) -> Path:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return lay_out


def test_without_limits_all_cpus_of_the_affinity_count(machine):
    assert cpu_count(machine("0::/\n", **{"cpu.max": "max 100000\n"})) == 16


def test_where_nothing_can_be_read_the_affinity_counts(tmp_path):
    assert cpu_count(tmp_path) == len(os.sched_getaffinity(0))


def test_a_quota_limits_and_is_rounded_down(machine):
    assert cpu_count(machine("0::/\n", **{"cpu.max": "250000 100000\n"})) == 2


def test_less_than_one_cpu_is_one_thread(machine):
    assert cpu_count(machine("0::/\n", **{"cpu.max": "50000 100000\n"})) == 1


def test_a_parents_limit_holds_too(machine):
    files = {"pods/one/cpu.max": "max 100000\n", "pods/cpu.max": "400000 100000\n"}
    assert cpu_count(machine("0::/pods/one\n", **files)) == 4


def test_a_host_path_that_is_not_mounted_leaves_the_own_groups_limit(machine):
    assert cpu_count(machine("0::/docker/abc\n", **{"cpu.max": "300000 100000\n"})) == 3


def test_version_1_has_a_quota_and_a_period(machine):
    files = {"cpu/cpu.cfs_quota_us": "600000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_count(machine("4:cpu,cpuacct:/\n3:memory:/\n", **files)) == 6


def test_version_1_without_a_limit_says_minus_one(machine):
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_count(machine("4:cpu,cpuacct:/\n", **files)) == 16


CPUINFO = """processor : 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse2 avx2 avx512f amx_int8

processor : 1
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse2 avx2 avx512f amx_int8
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CPUINFO, "Some CPU @ 2 GHz (avx2, avx512f)"),
        ("model name : Old CPU\nflags : sse2\n", "Old CPU (no AVX2)"),
        ("CPU part : 0xd0c\n", f"{platform.machine()} (no AVX2)"),  # as on ARM
    ],
)
def test_a_cpu_is_its_name_and_the_instructions_that_count(tmp_path, text, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert cpu_model(tmp_path) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 avx512f", False), ("avx2 avx_vnni", True), ("avx512f avx512_vnni", True)],
)
def test_a_cpu_with_vnni_is_known(tmp_path, flags, expected):
    """In its 256-bit and its 512-bit form."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"model name : Some CPU\nflags : {flags}\n")
    assert has_vnni(tmp_path) is expected


def test_a_cpu_that_nothing_tells_of_has_a_name_too(tmp_path):
    assert cpu_model(tmp_path)


def test_where_affinity_is_unknown_all_cpus_are_counted(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cpu_count(tmp_path) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_count(tmp_path) == 1
