"""Request ids."""

from __future__ import annotations

import random
import re

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")


def request_id(offered: bytes | None) -> str:
    """Return the client's id if it is well formed, otherwise a new one.

    Ids go into headers and logs, so they may only have up to 128 letters, digits and `._:-`.
    """
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered.decode("ascii")
    return f"{random.getrandbits(128):032x}"  # not a secret, so no need for a system call
