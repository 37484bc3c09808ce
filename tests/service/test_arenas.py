"""All threads take memory from one place, where the C library can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

from service.arenas import share_one_arena


def test_threads_are_told_to_share_one_arena(monkeypatch):
    asked = []
    library = SimpleNamespace(mallopt=lambda option, value: asked.append((option, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    share_one_arena()
    assert asked == [(-8, 1)]


def test_a_c_library_without_arenas_is_let_be(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    share_one_arena()


def test_a_server_has_one_arena_however_many_threads_it_has():
    """The first thread of a start is there before anything is imported."""
    script = """
import ctypes, os, sys, threading
from service import cli, starting

def stop(*_):
    libc = ctypes.CDLL(None)
    def take():
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc(1000)
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    fdopen = libc.fdopen
    fdopen.restype = ctypes.c_void_p
    out = fdopen(os.dup(1), b"w")
    libc.malloc_info(0, ctypes.c_void_p(out))
    libc.fflush(ctypes.c_void_p(out))
    os._exit(0)

cli._serve = stop
cli.main(["serve"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("<heap nr=") == 1, done.stdout
