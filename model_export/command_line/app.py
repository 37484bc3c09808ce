"""The command line of `resnet-export`: it reads the arguments, and runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from model_export.command_line import making, showing, training
from model_export.command_line.jobs import Job
from model_export.errors import OptionsError
from service import __version__

_PROGRAM = "resnet-export"

COMMANDS: tuple[tuple[str, Callable[..., Job], str], ...] = (
    ("export", making.export,
     "resnet18 --weights flowers.pth --labels flowers.txt --output models/flowers.onnx"),
    ("verify", showing.verify, "models/flowers.onnx --weights flowers.pth"),
    ("describe", showing.describe, "models/flowers.onnx --benchmark"),
    ("list", showing.show_list, "--json"),
    ("evaluate", showing.evaluate,
     "models/flowers.onnx held-out/ --plot reliability.html --write"),
    ("compare", showing.compare, "models/full.onnx models/int8.onnx photos/"),
    ("allow", showing.allow, "models/flowers.onnx --precision bf16 --images photos/"),
    ("calibrate", showing.calibrate, "models/flowers.onnx held-out/ --outside other-photos/"),
    ("adopt", making.adopt, "theirs.onnx --labels classes.txt --output models/theirs.onnx"),
    ("upgrade", making.upgrade, "models/flowers.onnx"),
    ("train", training.train, "photos/ --output run --weights imagenet"),
)  # fmt: skip
"""Each with what does it, and the arguments of an example."""

app = typer.Typer(
    name=_PROGRAM,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Example: {_PROGRAM} {COMMANDS[0][0]} {COMMANDS[0][2]}",
)
for _name, _function, _example in COMMANDS:
    app.command(_name, epilog=f"Example: {_PROGRAM} {_name} {_example}")(_function)


def read_arguments(arguments: Sequence[str] | None) -> Job | None:
    """Read a command line; None when it asked for help or the version, which then was printed.

    Raises `OptionsError` for what can't be read, or does not go together.
    """
    command = typer.main.get_command(app)
    try:
        job = command.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else _PROGRAM
        message = error.format_message()
        if not message.endswith("..."):
            message = message.removesuffix(".")
        raise OptionsError(f"{message}; see `{path} --help`") from error
    return job if callable(job) else None


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"{_PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Create verified model files for resnet-serve."""
