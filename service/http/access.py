"""Who may do what."""

from __future__ import annotations

from service.errors import AdminRequiredError
from service.http.exchange import Exchange


def require_admin(exchange: Exchange) -> None:
    """Refuse a request that changes what is served, unless the settings allow it to anyone.

    Raises `AdminRequiredError`.
    """
    if not exchange.runtime.settings.admin:
        raise AdminRequiredError("changing what is served needs the setting admin (--admin)")
