"""Freed memory goes back to the system, where the C library can be told to give it."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

from service.memory import give_back_freed


def test_the_c_library_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    give_back_freed()
    assert asked == [0]


def test_a_c_library_that_can_not_be_told_is_let_be(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    give_back_freed()


def test_it_works_with_the_one_that_is_here():
    give_back_freed()
