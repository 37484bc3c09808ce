"""Turns what readers raise for a damaged file into a one-line error."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_export.contents import shown
from model_export.errors import ExportError, WeightsError
from service.errors import ResnetServeError, first_line

_SHOWN = 160  # characters of a reader's message


@contextmanager
def told_as_damage(
    path: Path, told: type[ExportError | ResnetServeError] = WeightsError
) -> Iterator[None]:
    """Turn whatever the block raises because of the file's content into an error of type `told`.

    Errors raised on purpose pass unchanged, as do those of missing packages and `OSError`s that
    name a file, such as an unreadable one. Readers' errors for damaged files share no base class,
    so all others are translated.
    """
    try:
        yield
    except (ExportError, ResnetServeError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise told(f"{path}: {_reason(error)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; PyTorch only has a separate error for a GPU's memory."""
    ours = isinstance(error, MemoryError)
    return ours or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "needs more memory than there is, or is damaged"
    # EINVAL comes from an offset before the file's beginning, which the content gives.
    if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
        return f"can't be read: {error.strerror}"
    if isinstance(error, OSError):
        return "is damaged: its parts are not where its contents say"
    if isinstance(error, EOFError):
        return "is damaged: it ends too early"
    if isinstance(error, (TypeError, AttributeError, LookupError)):
        return "is damaged"  # such messages are about the reader's own code
    return f"is damaged: {shown(first_line(error), _SHOWN)}"
