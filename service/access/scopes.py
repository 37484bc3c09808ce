"""What a key may be allowed."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What an operation needs; a key has any of those but `PUBLIC`."""

    PUBLIC = "public"
    """Nothing: probes, and pages that say nothing about this service."""
    CLASSIFY = "classify"
    """Asking models, and which there are."""
    METRICS = "metrics"
    """How the service is doing."""
    ADMIN = "admin"
    """Changing what is served; without keys nobody may."""


GIVEN = (Scope.CLASSIFY, Scope.METRICS, Scope.ADMIN)
"""What keys can have."""
