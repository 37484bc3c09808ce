"""Names of requests."""

from __future__ import annotations

import random
import re

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")


def request_id(offered: bytes | None) -> str:
    """Take the client's id when it is well formed, else make one.

    An id goes into headers and logs: up to 128 letters, digits and `._:-`, nothing else.
    """
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered.decode("ascii")
    return f"{random.getrandbits(128):032x}"  # a name, not a secret: no system call
