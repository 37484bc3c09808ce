"""`resnet-serve key`: makes an API key and the line of the key file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from service.access.scopes import GIVEN, Scope
from service.errors import SettingsError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_EPILOG = """\
examples:
  resnet-serve key shop >> keys.txt
  resnet-serve key prometheus --scopes metrics >> keys.txt
  resnet-serve key trial --rate 5 >> keys.txt
  resnet-serve serve --api-keys keys.txt
"""


def add_key(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `key` command."""
    parser = subparsers.add_parser(
        "key",
        help="make an API key for --api-keys",
        description="Make an API key. Its line of the key file goes to stdout, the key itself, "
        "which is\nstored nowhere, to stderr.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="of the key, in logs and metrics")
    parser.add_argument(
        "--scopes",
        default=str(Scope.CLASSIFY),
        metavar="A,B,...",
        help=f"what it may do: {', '.join(GIVEN)} [{Scope.CLASSIFY}]",
    )
    parser.add_argument("--rate", metavar="N", help="requests a second; not set: any number")


def run_key(arguments: Mapping[str, Any]) -> int:
    """Make a key and return the exit status. Raises `SettingsError`."""
    from service.access.keys import is_key_name, new_key, rate_in, scopes_in  # noqa: PLC0415

    name = arguments["name"]
    if not is_key_name(name):
        raise SettingsError(
            "NAME: must be 1 to 64 letters, digits and `_-`, not beginning with `_-`"
        )
    try:
        scopes = scopes_in(arguments["scopes"])
        rate = None if arguments["rate"] is None else rate_in(arguments["rate"])
    except ValueError as error:
        raise SettingsError(f"key: {error}") from None
    key, known = new_key(name, tuple(scopes), rate)
    print(known.line(), flush=True)  # noqa: T201
    print(f"the key, which is shown only now: {key}", file=sys.stderr)  # noqa: T201
    return 0
