"""Settings of single models: from flags, from one TOML file for all, or from one beside the model.

Flags for a model come before `--model-settings`, that before `NAME.toml`, and that before the
settings for all models.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from service.contract import Fraction, MultiLabel
from service.errors import ModelFileError, SettingsError
from service.models.files import ModelFile
from service.models.stamps import settings_path_of
from service.settings import Count, Milliseconds, ProviderName, Settings
from service.versions import VersionPolicy
from service.wording import Kind, what_is_wrong

_MOST_BYTES = 2**20


def _as_text(value: Any) -> Any:
    """Accept a single version as a number, too."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else value


class ModelSettings(BaseModel):
    """What can be set for one model; what is None is as for all models."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_batch: int | None = Field(None, ge=0, le=1024)
    max_delay_ms: float | None = Field(None, ge=0, le=10_000)
    timeout_ms: Milliseconds | None = None
    provider: ProviderName | None = None
    precision: Literal["auto", "exact"] | None = None
    top_k: Count | None = None
    threshold: Fraction | None = None
    thresholds: dict[str, Fraction] | None = None
    """By label id, where another than `threshold` applies."""
    versions: Annotated[str, BeforeValidator(_as_text)] | None = None
    pinned: bool | None = None

    @field_validator("versions")
    @classmethod
    def _is_a_policy(cls, value: str | None) -> str | None:
        return None if value is None else str(VersionPolicy.parse(value))

    @property
    def policy(self) -> VersionPolicy | None:
        """Return which version answers, if that is set."""
        return None if self.versions is None else VersionPolicy.parse(self.versions)

    def rule_for(self, rule: MultiLabel) -> MultiLabel:
        """Return which labels an image has: as a file's contract says, unless it is set here."""
        threshold = rule.threshold if self.threshold is None else self.threshold
        # A threshold for all replaces those that the file has for single labels.
        own = rule.thresholds if self.threshold is None else {}
        return MultiLabel(threshold=threshold, thresholds={**own, **(self.thresholds or {})})

    def over(self, other: ModelSettings) -> ModelSettings:
        """Return these settings, with what they leave open from `other`."""
        return other.model_copy(update=self.model_dump(exclude_none=True))

    def applied_to(self, settings: Settings) -> Settings:
        """Return the settings for all models as they are for this one."""
        changes = {
            "max_batch": self.max_batch,
            "max_delay_ms": self.max_delay_ms,
            "request_timeout_ms": self.timeout_ms,
            "provider": self.provider,
            "precision": self.precision,
        }
        return settings.model_copy(
            update={name: value for name, value in changes.items() if value is not None}
        )


class ModelConfig:
    """All settings of single models."""

    def __init__(self, settings: Settings) -> None:
        """Read the file that the settings name. Raises `SettingsError`, naming file and key."""
        self._settings = settings
        self._tables: dict[str, ModelSettings] = {}
        path = settings.model_settings
        if path is None:
            return
        try:
            for name, table in _read(path).items():
                self._tables[name] = _checked(table, f"{path}: {name}")
        except ValueError as error:
            raise SettingsError(f"{error} (--model-settings)") from error

    @property
    def names(self) -> Collection[str]:
        """Return the names of the models that the file has settings for."""
        return self._tables.keys()

    def of(self, file: ModelFile) -> ModelSettings:
        """Return the settings of a model, for which the file beside it is read again.

        Raises `ModelFileError` if that is not valid.
        """
        found = self._flags(file.name)
        if (table := self._tables.get(file.name)) is not None:
            found = found.over(table)
        path = settings_path_of(file)
        try:
            beside = _checked(_read(path), str(path)) if path.exists() else ModelSettings()
            return self._possible(found.over(beside), file)
        except ValueError as error:
            raise ModelFileError(str(error)) from error

    def _flags(self, name: str) -> ModelSettings:
        return ModelSettings(
            timeout_ms=self._settings.model_timeout_ms.get(name),
            versions=self._settings.model_versions.get(name),
        )

    def _possible(self, found: ModelSettings, file: ModelFile) -> ModelSettings:
        if found.precision == "auto" and self._settings.precision == "exact":
            raise ValueError(
                f"{file.path}: the precision can't be auto for one model if --precision is exact"
            )
        return found


def _read(path: Path) -> Mapping[str, Any]:
    """Return a TOML file's content. Raises `ValueError` if it can't be read or is not TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"{path}: is larger than {_MOST_BYTES} bytes")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: is not valid TOML: {error}") from error


def _checked(table: object, where: str) -> ModelSettings:
    """Return a table's settings. Raises `ValueError`, naming each wrong key and what is allowed."""
    if not isinstance(table, dict):
        raise ValueError(f"{where}: must be a table, with keys {_allowed_keys()}")  # noqa: TRY004
    try:
        return ModelSettings.model_validate(table)
    except ValidationError as error:
        faults = [_fault(item) for item in error.errors()]
        raise ValueError(f"{where}: {'; '.join(faults)}") from None


def _fault(item: Any) -> str:
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return f"there is no key {key!r}; allowed: {_allowed_keys()}"
    said = what_is_wrong(item)
    if item["type"] != "value_error":
        field = ModelSettings.model_fields[key]
        said = f"must be {Kind.of(field.annotation, field.metadata)}"
    return f"{key} {said}, got {item['input']!r}"


def _allowed_keys() -> str:
    return ", ".join(ModelSettings.model_fields)
