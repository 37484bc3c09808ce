"""Decoding as the service prepares it."""

from __future__ import annotations

import pytest

from service.preprocess.decode import prepare_decoding


@pytest.fixture(autouse=True)
def _prepared() -> None:
    """For each test, since Pytest puts its own warning filters in place before each."""
    prepare_decoding()
