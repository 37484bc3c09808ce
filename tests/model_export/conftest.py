"""Fixtures that the exporter's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from digits import TrainedDigits, trained_digits
from exports import exports_kept


@pytest.fixture(scope="session")
def digits(shared: Path) -> TrainedDigits:
    """A network that was trained on handwritten digits, and those it was not trained on."""
    return trained_digits(shared)


@pytest.fixture(scope="session", autouse=True)
def _exports_kept(shared: Path) -> Iterator[None]:
    """The same network is written by PyTorch once, whichever tests need it."""
    with exports_kept(shared):
        yield
