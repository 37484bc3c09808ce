"""What readers raise at a damaged file, translated into one readable line."""

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
    """Translate whatever the block raises of the file's content into one error that is `told`.

    Errors that are raised on purpose pass, as do those of missing packages, and `OSError`s that
    name a file, as of one that may not be read. Readers' errors at damaged files have no root of
    their own, so all others are taken.
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
    """Return whether memory ran out; PyTorch has an error of its own only for a GPU's."""
    ours = isinstance(error, MemoryError)
    return ours or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "needs more memory than there is, or is damaged"
    # EINVAL is of a place before the file's beginning, which is the content's fault.
    if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
        return f"can't be read: {error.strerror}"
    if isinstance(error, OSError):
        return "is damaged: its parts are not where its contents say"
    if isinstance(error, EOFError):
        return "is damaged: it ends too early"
    if isinstance(error, (TypeError, AttributeError, LookupError)):
        return "is damaged"  # such messages tell of the reader's own code
    return f"is damaged: {shown(first_line(error), _SHOWN)}"
