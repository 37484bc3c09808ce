"""Reads files of trained parameters, whatever trainers wrap around the parameters.

No code in a file is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from model_export.architectures import Stem
from model_export.contents import content_of, shown
from model_export.damage import told_as_damage
from model_export.errors import WeightsError
from model_export.files import missing
from model_export.unpickling import Stranger, is_array, load_pickle, what_is
from service.contract import Preprocessing
from service.files import sha256_of

# Where trainers put the parameters, averaged ones first, since those are what they evaluate.
_ENTRIES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "state_dict",
            "model_state_dict", "model", "network", "net", "module")  # fmt: skip
_DEPTH = 3  # of nested entries

TRAINED = "resnet_export"
"""The entry in which `resnet-export train` describes its network: labels, preprocessing, ..."""

_SHOWN = 8  # keys to list of a file without a known entry


class _About(BaseModel):
    """The content of that entry; older releases left out some of it."""

    architecture: str | None = None
    stem: Stem | None = None
    labels: list[str] | None = None
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Named parameters as read from a file, and the file's SHA-256.

    `state` also has other values of the file until `wrappers.unwrapped` knows the network's names;
    `beside` then names what was left out, and `head` the linear layer that is used as the network's
    last one if the file gives it another name. `entry` names the part of the file with the
    parameters; empty for all of it. `about` is what `resnet-export train` says about its network
    (see `TRAINED`), or empty.
    """

    path: Path
    sha256: str
    state: Mapping[str, Any]
    entry: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    head: str = ""


def read_checkpoint(path: Path, entry: str | None = None) -> Checkpoint:
    """Read a file of parameters, safetensors or from `torch.save`, recognised by its content.

    The parameters may be the file's only content or one of its entries: the named one, which may
    also be a common prefix of names, or by default the first of those that trainers use.

    Raises `WeightsError` if the file is missing, of another kind, damaged, or has no named tensors.
    """
    if reason := missing(path):
        raise WeightsError(reason)
    found = content_of(path)
    if found.kind == "safetensors":
        content: Any = _read_safetensors(path)
    elif found.kind == "torch":
        content = load_pickle(path)
    else:
        unknown = "is neither safetensors nor from torch.save, or is damaged"
        raise WeightsError(f"{path}: {unknown if found.kind == 'unknown' else found.told}")
    state, part = _find(content, path, entry)
    if odd := next((name for name in state if not name.isprintable()), None):
        raise WeightsError(f"{path}: is damaged: a parameter is named {odd!r}")
    return Checkpoint(path, sha256_of(path), state, part, _about(content, path))


def _about(content: Any, path: Path) -> dict[str, Any]:
    about = content.get(TRAINED) if isinstance(content, dict) else None
    if about is None:
        return {}
    try:
        return _About.model_validate(about).model_dump(exclude_none=True)
    except ValidationError as error:
        place = ".".join(map(str, (TRAINED, *error.errors()[0]["loc"])))
        raise WeightsError(
            f"{path}: its entry {place} can't be read: it is damaged or from another version"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with told_as_damage(path):
        return load_file(path)


def _find(content: Any, path: Path, entry: str | None) -> tuple[Mapping[str, Any], str]:
    """Return the named tensors in a file's content, and the name of their entry."""
    if entry is not None:
        part = content.get(entry) if isinstance(content, dict) else None
        found = next(_states(part, entry), None) or _begun(content, entry)
    elif isinstance(content, dict) and content and all(map(_is_tensor, content.values())):
        found = (content, "") if _is_state(content) else None
    else:
        found = next(_states(content, ""), None)
    if found is None:
        wanted = f"no named tensors as its entry {entry}" if entry else "no named tensors"
        raise WeightsError(
            f"{path}: has {wanted}, but {_keys(content)}; save the network's state_dict() alone"
        )
    return found


def _states(
    content: Any, entry: str, depth: int = _DEPTH
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield what may be a network's parameters, most likely first: known entries."""
    if not isinstance(content, dict):
        return
    if depth > 0:
        for name in _ENTRIES:
            yield from _states(content.get(name), f"{entry}.{name}" if entry else name, depth - 1)
    if _is_state(content):
        yield content, entry


def _begun(content: Any, entry: str) -> tuple[Mapping[str, Any], str] | None:
    """Return parameters with that prefix, such as `teacher` in `teacher.conv1.weight`."""
    state, _ = next(_states(content, ""), ({}, ""))
    begin = f"{entry}."
    chosen = {
        name.removeprefix(begin): value for name, value in state.items() if name.startswith(begin)
    }
    return (chosen, entry) if chosen else None


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Return whether it has named arrays, possibly beside numbers and other values."""
    return all(isinstance(key, str) for key in content) and any(map(is_array, content.values()))


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _keys(content: Any) -> str:
    if not isinstance(content, dict):
        return _told(content)
    names = [
        f"{shown(str(key))} ({_told(value)})" if isinstance(value, Stranger) else shown(str(key))
        for key, value in content.items()
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"the keys {', '.join(names[:_SHOWN])}{more}" if names else "nothing"


def _told(value: object) -> str:
    refused = ", which is not unpickled because that could run code"
    return what_is(value) + (refused if isinstance(value, Stranger) else "")
