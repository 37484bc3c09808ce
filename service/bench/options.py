"""The flags of `resnet-serve bench`, as one frozen model."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service import flags
from service.bench.errors import OptionError

DEFAULT_URL = "http://127.0.0.1:8000"
BURST_PERIOD_S, BURST_LENGTH_S, BURST_FACTOR = 5.0, 1.0, 3.0

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_PATH = re.compile(r"/[!-\"$-~]*")  # visible ASCII but for #
_FLAGS = {"json_file": "json", "html_file": "html"}
_GROUPS = {
    "url": "what is sent",
    "mode": "load",
    "reference": "right answers",
    "server_pid": "measuring",
    "json_file": "reports",
}
"""The title of each group of flags, by its first field."""

SYNTHETIC = re.compile(r"synthetic(?::([1-9]\d{0,3})x([1-9]\d{0,3}))?")

STDOUT = Path("-")
"""In the place of a file's name."""


class BenchOptions(BaseModel):
    """Everything that can be asked for. Field names are the flags, but for `_FLAGS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        None, description=f"server, on this machine only [{DEFAULT_URL}, or none with --limits]"
    )
    images: str = Field(
        "synthetic",
        description="a folder or tar of images, or synthetic (500x375 JPEGs) or synthetic:64x64",
    )
    image_count: int = Field(200, ge=1, le=100_000, description="distinct images at most")
    path: str | None = Field(
        None,
        description="path, with its query, that images are posted to, for a server of another kind "
        "that answers in the same form [/v1/classify with --model and --top-k]",
    )
    model: str | None = Field(None, description="model to ask for; the server's default if none")
    top_k: int = Field(1, ge=1, le=1000, description="labels to ask for")
    mode: Literal["closed", "poisson", "burst", "trace"] = Field(
        "closed",
        description="closed: each client sends when it has its answer; poisson: arrivals at "
        f"random; burst: the same at {BURST_FACTOR:g}x the mean rate for {BURST_LENGTH_S:g} s "
        f"every {BURST_PERIOD_S:g} s and evenly less between; trace: arrivals from --trace",
    )
    clients: int = Field(8, ge=1, le=10_000, description="clients of the closed loop")
    rate: Positive | None = Field(None, description="mean arrivals a second (poisson, burst)")
    sweep: tuple[Positive, ...] = Field(
        (), description="rates R1,R2,... to offer one after another (poisson, burst)"
    )
    trace: Path | None = Field(
        None, description="text file with one arrival time in seconds a line"
    )
    duration: Positive = Field(10.0, le=86_400, description="seconds that are measured")
    warm_up: float = Field(2.0, ge=0, le=86_400, description="seconds of the same load before that")
    connections: int = Field(
        512,
        ge=1,
        le=10_000,
        description="connections of the open loop at most; an arrival beyond them waits",
    )
    processes: int = Field(
        0,
        ge=0,
        le=64,
        description="processes that send the load, clients or arrivals dealt out to them; 0: one "
        "for four cores, 8 at most",
    )
    deadline_ms: Positive | None = Field(
        None,
        description="goodput counts answers within it; sent along as X-Request-Timeout-Ms",
    )
    no_deadline_header: bool = Field(
        False, description="keep --deadline-ms from the server: only count what is within it"
    )
    timeout_s: Positive = Field(30.0, description="an answer that takes longer is an error")
    reference: Literal["server", "local"] = Field(
        "server",
        description="right answers: the server's own, asked one at a time before the load, or "
        "local: --model-file run in this process; probabilities may differ by the tolerance that "
        "the server shows for its model, or else by 0.001",
    )
    model_file: Path | None = Field(
        None, description="model file for --reference local and --limits; the built-in if none"
    )
    server_pid: int | None = Field(
        None,
        ge=1,
        description="read CPU and memory of this process and its descendants, not from /metrics",
    )
    limits: bool = Field(
        False, description="measure the model alone and decode + model without HTTP"
    )
    repeats: int = Field(3, ge=1, le=100, description="interleaved repeats of --limits")
    seed: int = Field(0, ge=0, description="of arrivals, image order and synthetic images")
    json_file: Path | None = Field(
        None, description="write the report as JSON; - is stdout, and the text then goes to stderr"
    )
    html_file: Path | None = Field(
        None, description="write the report as HTML with plots; - as for --json"
    )

    @model_validator(mode="before")
    @classmethod
    def _split_sweep(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(sweep := values.get("sweep"), str):
            values = {**values, "sweep": [part for part in sweep.split(",") if part.strip()]}
        return values

    @field_validator("trace", "model_file", "json_file", "html_file", mode="before")
    @classmethod
    def _names_a_file(cls, value: Any) -> Any:
        if value == "":  # as in --json "$UNSET"; as a path it would be the current folder
            raise ValueError("must not be empty")
        return value

    @field_validator("images")
    @classmethod
    def _has_a_size(cls, value: str) -> str:
        if value.startswith("synthetic:") and not SYNTHETIC.fullmatch(value):
            raise ValueError("must be synthetic or synthetic:WIDTHxHEIGHT, up to 9999x9999")
        return value

    @field_validator("path")
    @classmethod
    def _fits_a_request_line(cls, value: str | None) -> str | None:
        if value is not None and not _PATH.fullmatch(value):
            raise ValueError("must begin with / and have neither spaces nor a #fragment")
        return value

    @model_validator(mode="after")
    def _belongs_together(self) -> BenchOptions:
        open_loop = self.mode in {"poisson", "burst"}
        if open_loop and not (self.rate or self.sweep):
            raise ValueError(f"--mode {self.mode} needs --rate or --sweep")
        if not open_loop and (self.rate or self.sweep):
            raise ValueError("--rate and --sweep go with --mode poisson or burst")
        if (self.mode == "trace") != (self.trace is not None):
            raise ValueError("--mode trace and --trace go together")
        if self.path is not None and {"model", "top_k"} & self.model_fields_set:
            raise ValueError("--model and --top-k are for the service's own path; write into --path"
                             " what another one takes")  # fmt: skip
        if self.processes > self.most_connections:
            kind = "clients" if self.mode == "closed" else "connections"
            raise ValueError(f"--processes: each needs one of the {self.most_connections} {kind}")
        if self.no_deadline_header and self.deadline_ms is None:
            raise ValueError("--no-deadline-header goes with --deadline-ms")
        if self.json_file == STDOUT == self.html_file:
            raise ValueError("--json and --html: only one can go to stdout")
        return self

    @property
    def target_url(self) -> str | None:
        """The server to load; None when only the limits are asked for."""
        return self.url or (None if self.limits else DEFAULT_URL)

    @property
    def takes_stdout(self) -> bool:
        """Return whether a report goes to stdout that must be alone there."""
        return STDOUT in {self.json_file, self.html_file}

    @property
    def most_connections(self) -> int:
        """Connections at most; in a closed loop each client has one."""
        return self.clients if self.mode == "closed" else self.connections


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each field; values stay text, so that `BenchOptions` alone judges them."""
    flags.add_flags(parser, BenchOptions, _GROUPS, _FLAGS)


def read_options(arguments: Mapping[str, Any]) -> BenchOptions:
    """Judge the flags (None: not given); raises `OptionError`, naming every bad one."""
    values = {name: value for name, value in arguments.items() if value is not None}
    try:
        return BenchOptions.model_validate(values)
    except ValidationError as error:
        raise OptionError("; ".join(_describe(item) for item in error.errors())) from error


def _flag(name: str) -> str:
    return flags.flag_of(_FLAGS.get(name, name))


def _describe(item: Any) -> str:
    flag = _flag(str(item["loc"][0])) if item["loc"] else None
    return flags.what_is_wrong_with_flag(item, BenchOptions, flag)
