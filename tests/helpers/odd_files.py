"""What may be at a path instead of a file, and might block forever if it were read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # an absolute path may be too long for a socket


ODD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "is a folder, not a file"),
    "a named pipe": (os.mkfifo, "is a named pipe, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "a socket": (bind, "is a socket, not a file"),
    "a link to nothing": (
        lambda path: path.symlink_to("gone"), "is a link to gone, which does not exist",
    ),
    "a link to itself": (
        lambda path: path.symlink_to(path.name), "is a link to .*, which does not exist",
    ),
    "nothing": (lambda _: None, "no such file"),
}  # fmt: skip
"""How each is made, and the expected message."""
