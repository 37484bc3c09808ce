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
    "url": "requests",
    "mode": "load",
    "reference": "expected answers",
    "server_pid": "measurement",
    "json_file": "reports",
}
"""The title of each group of flags, by its first field."""

_MOST_ARRIVALS = 10_000_000  # in one run; each takes a few hundred bytes
_DAY_MS = 86_400_000  # the longest X-Request-Timeout-Ms

_OF_LIMITS = {"url", "images", "image_count", "model_file", "limits", "repeats", "seed",
              "json_file", "html_file"}  # fmt: skip
"""What --limits uses if no server is loaded as well."""

SYNTHETIC = re.compile(r"synthetic(?::([1-9]\d{0,3})x([1-9]\d{0,3}))?")

STDOUT = Path("-")
"""In the place of a file's name."""


class BenchOptions(BaseModel):
    """Everything that can be asked for. Field names are the flags, but for `_FLAGS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        None, description=f"server URL, on this machine only [{DEFAULT_URL}, or none with --limits]"
    )
    api_key_file: Path | None = Field(
        None,
        description="file that has the key for the server; with the scope metrics, too, the report "
        "has the server's settings and usage",
    )
    images: str = Field(
        "synthetic",
        description="folder or tar of images, or generated JPEGs: synthetic (500x375) or, e.g., "
        "synthetic:64x64",
    )
    image_count: int = Field(200, ge=1, le=100_000, description="maximum number of distinct images")
    path: str | None = Field(
        None,
        description="request path and query, for other servers that answer in the same format "
        "[/v1/classify with --model and --top-k]",
    )
    model: str | None = Field(None, description="model to request; not set: the server's default")
    top_k: int = Field(1, ge=1, le=1000, description="labels per image to request")
    mode: Literal["closed", "poisson", "burst", "trace"] = Field(
        "closed",
        description="closed: each client sends its next request when the last is answered; "
        f"poisson: random arrivals; burst: the same at {BURST_FACTOR:g}x the mean rate for "
        f"{BURST_LENGTH_S:g} s every {BURST_PERIOD_S:g} s, and a lower rate in between; trace: "
        "arrivals from --trace",
    )
    clients: int = Field(8, ge=1, le=10_000, description="clients in the closed loop")
    rate: Positive | None = Field(None, description="mean arrivals per second (poisson, burst)")
    sweep: tuple[Positive, ...] = Field(
        (), description="rates to run one after another (poisson, burst)"
    )
    trace: Path | None = Field(
        None, description="text file with one arrival time per line, in seconds"
    )
    duration: Positive = Field(10.0, le=86_400, description="seconds to measure")
    warm_up: float = Field(
        2.0, ge=0, le=86_400, description="seconds of the same load before measuring"
    )
    connections: int = Field(
        512,
        ge=1,
        le=10_000,
        description="maximum connections in the open loop; further arrivals wait",
    )
    processes: int = Field(
        0,
        ge=0,
        le=64,
        description="processes that generate the load, sharing the clients or arrivals; 0: one per "
        "four cores, up to 8",
    )
    deadline_ms: Positive | None = Field(
        None,
        le=_DAY_MS,
        description="deadline for goodput; also sent as X-Request-Timeout-Ms",
    )
    no_deadline_header: bool = Field(
        False, description="use --deadline-ms for goodput only and do not send it"
    )
    timeout_s: Positive = Field(30.0, description="client timeout per request")
    reference: Literal["server", "local"] = Field(
        "server",
        description="expected answers: the server's own, to requests sent one at a time before the "
        "load, or local: --model-file run in this process; probabilities may differ by the "
        "tolerance that the server reports for its model, or else by 0.001",
    )
    model_file: Path | None = Field(
        None, description="model file for --reference local and --limits; not set: the built-in one"
    )
    server_pid: int | None = Field(
        None,
        ge=1,
        description="measure CPU and memory of this process and its descendants instead of "
        "reading /metrics",
    )
    limits: bool = Field(
        False, description="measure the model alone, and decode + model, without HTTP"
    )
    repeats: int = Field(3, ge=1, le=100, description="interleaved repetitions of --limits")
    seed: int = Field(
        0, ge=0, description="random seed for arrivals, image order and synthetic images"
    )
    json_file: Path | None = Field(
        None,
        description="write the report as JSON; - for stdout, which sends the text report to stderr",
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

    @field_validator("api_key_file", "trace", "model_file", "json_file", "html_file", mode="before")
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
        if self.rate and self.sweep:
            raise ValueError("--rate and --sweep: only one of them can be given")
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
        if self.json_file is not None and self.json_file == self.html_file:
            where = "stdout" if self.takes_stdout else str(self.json_file)
            raise ValueError(f"--json and --html: only one can go to {where}")
        return self

    @model_validator(mode="after")
    def _has_an_effect(self) -> BenchOptions:
        """Refuse what would be ignored: whoever gives a flag expects it to matter."""
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        ignored = sorted(given - _OF_LIMITS) if self.target_url is None else ()
        if ignored:
            raise ValueError(f"{_flag(ignored[0])}: --limits alone sends no load; add --url")
        if "clients" in given and self.mode != "closed":
            raise ValueError("--clients goes with --mode closed")
        if "connections" in given and self.mode == "closed":
            raise ValueError("--connections goes with --mode poisson, burst or trace")
        if "repeats" in given and not self.limits:
            raise ValueError("--repeats goes with --limits")
        if "model_file" in given and not (self.limits or self.reference == "local"):
            raise ValueError("--model-file goes with --reference local or --limits")
        return self

    @model_validator(mode="after")
    def _fits_into_memory(self) -> BenchOptions:
        seconds = self.warm_up + self.duration
        for rate in (*self.sweep, *filter(None, [self.rate])):
            if rate * seconds > _MOST_ARRIVALS:
                raise ValueError(
                    f"{rate:g} arrivals per second for {seconds:g} s are more than "
                    f"{_MOST_ARRIVALS:,}, which is the most for a run"
                )
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


def add_flags(parser: argparse.ArgumentParser, only: Mapping[str, str] | None = None) -> None:
    """Add one flag for each field, or for each of `only`, which may have other descriptions.

    Values stay text, so that `BenchOptions` alone judges them.
    """
    flags.add_flags(parser, BenchOptions, _GROUPS, _FLAGS, only=only)


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
