"""All settings: flags over environment over defaults. The only reader of the environment.

A plain pydantic model with a reader of its own, since what is asked for goes past what
pydantic-settings does: an unknown variable stops the start, and the variables that Kubernetes
injects for a Service called resnet-serve do not.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service import flags
from service.engine.providers import AUTO, CPU, CUDA, CudaGraphs, provider_names
from service.errors import SettingsError
from service.versions import VersionPolicy

PREFIX = "RESNET_SERVE_"

MAX_TIMEOUT_MS = 86_400_000
"""A day: the longest that a request may wait."""

# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(
    r"(_|^)SERVICE_HOST$|(_|^)SERVICE_PORT(_\w+)?$|(_|^)PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
_SERVICE_LINK_VALUE = re.compile(r"^(tcp|udp|sctp)://")

Count = Annotated[int, Field(ge=1)]
Milliseconds = Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)]
Share = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


if TYPE_CHECKING:
    ProviderName = str
else:
    ProviderName = Literal[*provider_names()]
OptimizeFor = Literal["throughput", "latency"]

_ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - where clouds look for their containers
_SAGEMAKER_PORT = "SAGEMAKER_BIND_TO_PORT"
_VERTEX_ROUTES = {
    "AIP_HEALTH_ROUTE": "vertex_health_route",
    "AIP_PREDICT_ROUTE": "vertex_predict_route",
}

_RENAMED = {"layout_goal": "optimize_for"}
"""Settings that had another name; the old one is refused with the new one."""

_GROUPS = {
    "host": "address",
    "api_keys": "access",
    "models": "models",
    "provider": "device",
    "runners": "batches and threads",
    "request_timeout_ms": "requests",
    "drain_delay_s": "stopping and connections",
    "log_format": "log",
}
"""The title of each group of flags, by its first field."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_LEFT_OUT = re.compile(r"http://.*:80|https://.*:443")
_ROUTE = re.compile(r"(/[A-Za-z0-9._~:-]+)+")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Settings(BaseModel):
    """Everything that can be set. Field names are the flags and, in capitals, the variables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 picks a free one")
    grpc_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="port of the Open Inference Protocol over gRPC (extra `[grpc]`); 0: off",
    )
    sagemaker: bool = Field(
        False,
        description="be an Amazon SageMaker container: listen on all addresses, on port 8080 or "
        "$SAGEMAKER_BIND_TO_PORT, unless --host and --port say otherwise",
    )
    vertex_health_route: str | None = Field(
        None, description="path of Vertex AI's health check; default: $AIP_HEALTH_ROUTE"
    )
    vertex_predict_route: str | None = Field(
        None, description="path of Vertex AI's predictions; default: $AIP_PREDICT_ROUTE"
    )
    root_path: str | None = Field(
        None,
        description="path prefix under which a proxy exposes the service, e.g. /images; requests "
        "are accepted with or without it, and /docs and the API description include it",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="origins that browsers may call from, e.g. "
        "https://shop.example,http://localhost:3000, or *; not set: CORS is off",
    )
    page: bool = Field(
        True,
        description="show a page at / on which images can be classified and the load be watched",
    )
    api_keys: Path | None = Field(
        None,
        description="file of API keys, made by `resnet-serve key`; it is read again when it "
        "changes; not set: everything but admin calls is open",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="port for /metrics and /health, which the other port then does not have, and "
        "for probes; 0 picks a free one",
    )
    tls_cert: Path | None = Field(
        None,
        description="certificate chain (PEM) to serve HTTPS with; read again when it changes, like "
        "the other TLS files",
    )
    tls_key: Path | None = Field(
        None, description="key (PEM) of the certificate; not set: in the same file"
    )
    tls_client_ca: Path | None = Field(
        None,
        description="authorities (PEM) one of which must have signed the client's certificate; "
        "not asked for on --metrics-port",
    )
    models: Path | None = Field(
        None,
        description="folder of model files (NAME.onnx or NAME/VERSION.onnx), or one such file",
    )
    strict_models: bool = Field(
        False,
        description="refuse to start if any model file is broken; by default, only if the default "
        "model is broken",
    )
    builtin: bool = Field(
        False,
        description="serve the built-in model alongside --models (without --models, it is "
        "always served)",
    )
    default_model: str | None = Field(
        None, description="model for requests that do not name one; needed only with several"
    )
    admin: bool = Field(
        False,
        description="without --api-keys, allow every client to load, unload and roll out models",
    )
    model_versions: dict[str, str] = Field(
        {},
        description="which version of a model answers requests that name none: latest (default), "
        "one version, or shares, e.g. resnet50=2,tiny=1:90,2:10",
    )
    model_settings: Path | None = Field(
        None,
        description="TOML file with settings of single models; NAME.toml in the model folder has "
        "those of one",
    )
    watch: bool = Field(
        False,
        description="follow changes in the folder of --models: load new and changed files, retire "
        "those that are gone",
    )
    watch_interval_s: Seconds = Field(
        2, description="how often to look at it; a file counts once two looks see it the same"
    )
    max_models: int = Field(
        0,
        ge=0,
        description="maximum model files loaded at once, each version counted; 0: no limit; the "
        "least recently used that is not pinned is evicted",
    )
    max_models_bytes: int = Field(
        0,
        ge=0,
        description="maximum memory for all loaded models, estimated from their files; 0: no limit",
    )
    rollout: dict[str, str] = Field(
        {},
        description="version to compare with the one that answers, e.g. resnet50=3:shadow:10 (it "
        "also gets 10 % of the requests) or resnet50=3:canary:10 (it answers them)",
    )
    rollout_action: Literal["act", "report"] = Field(
        "act", description="what the verdict on a rollout does: promote or roll back, or nothing"
    )
    rollout_min_agreement: Share = Field(
        0.95, description="share of requests on which both versions must give the same label"
    )
    rollout_slow_ms: float = Field(
        0, ge=0, le=MAX_TIMEOUT_MS, description="answers that take longer are slow; 0: none is"
    )
    rollout_max_slow_share: Share = Field(
        0.05, description="share of slow answers that the new version must stay below"
    )
    rollout_error: Share = Field(
        0.05, description="maximum probability that a rollout's verdict is wrong"
    )
    provider: ProviderName = Field(
        AUTO,
        description="where models run; auto uses CUDA if it works, otherwise the CPU, through "
        "OpenVINO if it is installed and measured to be faster for the model",
    )
    device_id: int = Field(0, ge=0, description="index of the GPU to use")
    precision: Literal["auto", "exact"] = Field(
        "auto",
        description="auto computes in a faster precision if the model file allows it (see "
        "`resnet-export allow`); exact uses the precision of the file",
    )
    tf32: bool = Field(
        False,
        description="refuse float32 models that do not allow TF32 on a GPU; those that allow it "
        "use it anyway",
    )
    cuda_graphs: CudaGraphs = Field(
        "auto",
        description="auto captures a CUDA graph per batch size where possible; off uses a session "
        "per batch size",
    )
    runners: int = Field(
        0,
        ge=0,
        le=1024,
        description="concurrent batches; 0: measured at startup on the CPU; 2 on a GPU, where one "
        "runs while the others are copied",
    )
    intra_op_threads: int = Field(
        0, ge=0, le=1024, description="threads per batch on the CPU; 0: measured at startup"
    )
    optimize_for: OptimizeFor = Field(
        "throughput",
        description="what the startup measurement optimises for: images per second, or the latency "
        "of a single image",
    )
    cache_dir: Path | None = Field(
        None,
        description="folder that caches startup measurements; none: measure at every start; not "
        "set: resnet-serve in $XDG_CACHE_HOME or ~/.cache",
    )
    decode_threads: int = Field(
        0, ge=0, le=1024, description="threads that decode images; 0: one per core"
    )
    max_batch: int = Field(
        0,
        ge=0,
        le=1024,
        description=f"maximum images per batch; 0: {CPU.max_batch} on the CPU, measured (up to "
        f"{CUDA.max_batch}) on a GPU",
    )
    max_delay_ms: float = Field(
        0, ge=0, le=10_000, description="how long an incomplete batch waits for more images"
    )
    request_timeout_ms: Milliseconds = Field(
        30_000, description="timeout for requests without X-Request-Timeout-Ms"
    )
    model_timeout_ms: dict[str, Milliseconds] = Field(
        {}, description="request timeout for individual models, e.g. resnet50=2000,tiny=500"
    )
    max_queue: Count = Field(
        256,
        description="maximum images per model that are admitted but not yet answered; half as many "
        "for requests with a timeout longer than the default",
    )
    coalesce: bool = Field(False, description="compute identical in-flight images only once")
    max_images: Count = Field(32, description="maximum images per request")
    max_body_bytes: Count = Field(32 * 2**20, description="maximum size of a request body")
    max_inflight_bytes: Count = Field(
        256 * 2**20, description="maximum total size of all request bodies held at once"
    )
    body_timeout_s: Seconds = Field(
        30, description="time limit for receiving a request's headers, and then for its entire body"
    )
    write_timeout_s: Seconds = Field(
        30, description="drop a client that reads none of its response for this long"
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        le=178_956_970,  # Pillow refuses more by itself
        description="maximum width x height of an image, according to its header",
    )
    max_decoding_bytes: Count = Field(
        512 * 2**20,
        description="maximum memory for all images being decoded at once, estimated from their "
        "headers; an image that needs more on its own is refused",
    )
    jpeg_draft_ratio: float = Field(
        4,
        ge=0,
        le=64,
        description="decode JPEGs at a reduced size that keeps at least this many times the pixels "
        "needed on each side; 0: never",
    )
    drain_delay_s: float = Field(
        0,
        ge=0,
        le=3600,
        description="how long to keep serving after SIGTERM while reporting not ready",
    )
    drain_timeout_s: Seconds = Field(
        30, description="how long accepted requests may then take to finish"
    )
    stuck_after_s: Seconds = Field(
        60,
        description="make /livez fail when a batch, a decode or a model reload takes longer than "
        "this",
    )
    keep_alive_s: Count = Field(75, description="how long to keep an idle connection open")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto writes text to a terminal and JSON otherwise"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level to log"
    )

    @field_validator("vertex_health_route", "vertex_predict_route")
    @classmethod
    def _is_a_route(cls, value: str | None) -> str | None:
        if value is not None and not _ROUTE.fullmatch(value):
            raise ValueError("must be a path of letters, digits and `._~:-`, as in /v1/endpoints/7")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        return _split(value) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                continue
            if "://" not in origin:
                raise ValueError(f"{origin!r} has no scheme, as in {f'https://{origin}'!r}")
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not as browsers write origins: scheme, host and maybe port, in "
                    "small letters, and no path nor / behind"
                )
            if _LEFT_OUT.fullmatch(origin):
                raise ValueError(f"{origin!r}: browsers leave out the usual port, so leave it out")
        return value

    @field_validator("root_path")
    @classmethod
    def _is_a_root_path(cls, value: str | None) -> str | None:
        if value in (None, "", "/"):
            return None
        if not _ROOT_PATH.fullmatch(value):
            raise ValueError(
                "must begin with / and not end with it, as in /images or /a/b, and have letters, "
                "digits and `._~-` between"
            )
        return value

    @field_validator("model_timeout_ms", "rollout", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in _split(value)]
        if not all(equals for _, equals, _ in pairs):
            example = "resnet50=3:shadow:10" if info.field_name == "rollout" else "resnet50=2000"
            raise ValueError(f"must be pairs like {example},tiny={example.partition('=')[2]}")
        return {name.strip(): number.strip() for name, _, number in pairs}

    @field_validator("model_versions", mode="before")
    @classmethod
    def _split_versions(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found: dict[str, str] = {}
        name = ""
        for part in _split(value):
            before, equals, after = (each.strip() for each in part.rpartition("="))
            if equals and before in found:
                raise ValueError(f"{before} is given twice")
            if not (equals or name):
                raise ValueError("must be pairs like resnet50=2,tiny=1:90,2:10")
            if equals:
                name, found[before] = before, after
            else:  # another share of the same model
                found[name] += f",{after}"
        return found

    @field_validator("model_versions")
    @classmethod
    def _are_versions(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: str(VersionPolicy.parse(text)) for name, text in value.items()}

    @field_validator("models", "api_keys", "tls_cert", "tls_key", "tls_client_ca", mode="before")
    @classmethod
    def _names_a_path(cls, value: Any) -> Any:
        if value == "":  # as in --models "$UNSET"; as a path it would be the current folder
            raise ValueError("must not be empty")
        return value

    @field_validator("cache_dir", mode="before")
    @classmethod
    def _may_be_none(cls, value: Any) -> Any:
        return None if value in ("", "none") else value

    @model_validator(mode="after")
    def _limits_fit(self) -> Settings:
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            raise ValueError("tls_key and tls_client_ca go with tls_cert")
        if self.metrics_port == self.port != 0:
            raise ValueError("metrics_port: must be another port than port")
        if self.tf32 and self.precision == "exact":
            raise ValueError("tf32: TF32 is not exact; leave out either")
        if self.watch and self.models is None:
            raise ValueError("watch: without --models there is no folder to watch")
        if self.jpeg_draft_ratio and self.jpeg_draft_ratio < 2:
            raise ValueError(
                "jpeg_draft_ratio: below 2 the result changes too much; give 0 for never"
            )
        if self.grpc_port and self.grpc_port in {self.port, self.metrics_port}:
            raise ValueError("grpc_port is a port of HTTP; gRPC needs one of its own")
        if self.max_images > self.max_queue:
            raise ValueError("max_images is larger than max_queue: such a request never fits")
        if self.max_body_bytes > self.max_inflight_bytes:
            raise ValueError(
                "max_body_bytes is larger than max_inflight_bytes: such a request never fits"
            )
        return self


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting; values stay text, so that `Settings` alone judges them."""
    flags.add_flags(parser, Settings, _GROUPS)
    for old in _RENAMED:
        parser.add_argument(flags.flag_of(old), dest=old, default=None, help=argparse.SUPPRESS)


def load_settings(
    given: Mapping[str, Any], environ: Mapping[str, str], cache: Path | None = None
) -> tuple[Settings, tuple[str, ...]]:
    """Join the flags that were given (None: not), environment and defaults.

    `cache` is this program's folder among the user's caches, if there is one. Returns the settings
    and warnings to log. Raises `SettingsError`, naming every bad setting.
    """
    values, warnings = _from_environment(environ)
    values |= {name: value for name, value in given.items() if value is not None}
    if renamed := [
        f"{_named(old)} is now {_named(_RENAMED[old])}" for old in _RENAMED if old in values
    ]:
        raise SettingsError("; ".join(renamed))
    values = _of_the_cloud(values, environ) | values
    values.setdefault("cache_dir", cache)
    try:
        return Settings.model_validate(values), warnings
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(item) for item in error.errors())) from error


def _of_the_cloud(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that the variables of SageMaker and Vertex AI ask for."""
    values: dict[str, Any] = {}
    sagemaker = given.get("sagemaker", _SAGEMAKER_PORT in environ)
    if str(sagemaker).lower() == "true":
        port = environ.get(_SAGEMAKER_PORT, "8080")
        values = {"sagemaker": True, "host": _ALL_ADDRESSES, "port": port}
    if "AIP_HTTP_PORT" in environ:
        values |= {"host": _ALL_ADDRESSES, "port": environ["AIP_HTTP_PORT"]}
    for variable, name in _VERTEX_ROUTES.items():
        if environ.get(variable):
            values[name] = environ[variable]
    return values


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    values: dict[str, Any] = {}
    warnings, unknown = [], []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX):
            continue
        rest = variable.removeprefix(PREFIX)
        if _SERVICE_LINK.search(rest) or _SERVICE_LINK_VALUE.match(value):
            warnings.append(f"{variable} looks like a Kubernetes service link and is passed over")
        elif rest.lower() not in {*Settings.model_fields, *_RENAMED} or rest != rest.upper():
            unknown.append(variable)
        elif value:  # compose files set variables to nothing to mean "not set"
            values[rest.lower()] = value
    if unknown:
        raise SettingsError(
            f"unknown variable {', '.join(unknown)}; `resnet-serve serve --help` lists the settings"
        )
    return values, tuple(warnings)


def _describe(item: Any) -> str:
    name = str(item["loc"][0]) if item["loc"] else ""
    return flags.what_is_wrong_with_flag(item, Settings, _named(name))


def _named(name: str) -> str:
    return f"{flags.flag_of(name)} ({PREFIX}{name.upper()})"
