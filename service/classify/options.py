"""The flags of `resnet-serve classify`, as one frozen model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service import flags
from service.classify.errors import OptionError

TABLE, JSONL, CSV, PARQUET = FORMATS = ("table", "jsonl", "csv", "parquet")

_GROUPS = {"model": "model", "url": "server", "format": "rows"}
"""The title of each group of flags, by its first field."""

_OF_A_SERVER = ("api_key_file", "ca_file", "connections", "timeout_s")
_IN_PROCESS = ("provider", "precision")


class ClassifyOptions(BaseModel):
    """Everything that can be asked for. Field names are the flags, but for the paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: tuple[str, ...]
    model: str | None = Field(
        None,
        description="model file, or with --url the name of one of the server's models; not set: "
        "the built-in model, or the server's default",
    )
    top_k: int = Field(5, ge=1, le=1000, description="labels per image, or all if there are fewer")
    provider: str = Field("auto", description="as for `resnet-serve serve`")
    precision: Literal["auto", "exact"] = Field("auto", description="as for `resnet-serve serve`")
    url: str | None = Field(
        None, description="ask this server, e.g. http://127.0.0.1:8000, instead of opening a model"
    )
    api_key_file: Path | None = Field(None, description="file that has the key for the server")
    ca_file: Path | None = Field(
        None, description="certificates to trust instead of the system's, for https"
    )
    connections: int = Field(8, ge=1, le=256, description="requests at a time")
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = Field(
        60, description="how long to try a request, retries included"
    )
    format: Literal["auto", *FORMATS] = Field(  # type: ignore[valid-type]  # strings
        "auto",
        description="auto: by the suffix of --output, or else a table on a terminal and JSON Lines "
        "otherwise",
    )
    output: Path | None = Field(None, description="file to write once all is done; not set: stdout")
    resume: bool = Field(
        False, description="continue a run with the same --output that was cut off"
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> ClassifyOptions:
        given = self.model_fields_set
        others = _IN_PROCESS if self.url is not None else _OF_A_SERVER
        if wrong := [flags.flag_of(name) for name in others if name in given]:
            where = "without" if self.url is not None else "with"
            raise ValueError(f"{', '.join(wrong)}: only {where} --url")
        if self.output is None and self.resume:
            raise ValueError("--resume needs --output")
        if self.output is None and self.format == PARQUET:
            raise ValueError("--format parquet needs --output")
        return self


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the paths, and one flag for each other field; `ClassifyOptions` alone judges them."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, folder, tar (compressed or not), pattern like 'photos/**/*.jpg', or - for an "
        "image or a tar from standard input",
    )
    flags.add_flags(parser, ClassifyOptions, _GROUPS, but={"paths"})


def read_options(arguments: Mapping[str, Any]) -> ClassifyOptions:
    """Judge the flags (None: not given); raises `OptionError`, naming every bad one."""
    values = {name: value for name, value in arguments.items() if value is not None}
    try:
        return ClassifyOptions.model_validate(values)
    except ValidationError as error:
        faults = [flags.what_is_wrong_with_flag(item, ClassifyOptions) for item in error.errors()]
        raise OptionError("; ".join(faults)) from error
