"""The documented schemas of bodies and answers.

Answers are built as plain dicts with these schemas: a model instance for each label of each image
would cost more than the rest of the request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.http.parameters import Switch, UnitNumber, WholeNumber
from service.settings import MAX_TIMEOUT_MS

_STRICT = ConfigDict(extra="forbid")
_VERSION = "model version; default: as the service's setting model_versions says, or the highest"


class InferenceQuery(BaseModel):
    """The query of a request that runs a model; other parameters are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="model name; see /v1/models"
    )
    version: WholeNumber | None = Field(None, description=_VERSION)


class ClassifyQuery(InferenceQuery):
    """The query of a classify request."""

    top_k: WholeNumber | None = Field(
        None,
        description="labels per image; default 5, or all of the model's if it has fewer; with "
        "independent labels, the most that are listed",
    )
    threshold: UnitNumber | None = Field(
        None,
        description="for models with independent labels: list those with at least this "
        "probability; default: the threshold of each label in the model's file",
    )
    coverage: UnitNumber | None = Field(
        None,
        description="list as many labels as it takes to have the right one with this probability, "
        "for images like those that the model was calibrated with; needs a calibrated model file",
    )
    abstain: Switch = Field(
        False,
        description="mark images that are unlike those that the model was calibrated with; needs "
        "a model file that was calibrated with images from outside, too",
    )


class ExplainQuery(InferenceQuery):
    """The query of an explain request."""

    label: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="class to explain: its id, index or exact name; default: the most probable",
    )


class ModelQuery(BaseModel):
    """The query of a request for one model."""

    model_config = ConfigDict(frozen=True)
    version: WholeNumber | None = Field(None, description=_VERSION)


class ControlQuery(BaseModel):
    """The query of a request to load or unload a model; other parameters are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: WholeNumber | None = Field(None, description="only this version; default: all")


class RolloutQuery(BaseModel):
    """The query of a request to begin a rollout; other parameters are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: WholeNumber | None = Field(None, description="the candidate; default: the highest")
    mode: Literal["shadow", "canary"] = Field(
        "shadow", description="whether its answers are only compared, or returned"
    )
    percent: WholeNumber = Field(
        10,
        ge=1,
        le=100,
        description="share of the requests, 1 to 100; of a canary, at most 99",
        json_schema_extra={"minimum": 1, "maximum": 100},
    )


class JsonImage(BaseModel):
    """One image of a JSON body."""

    model_config = _STRICT
    data: str = Field(
        description="the image file (JPEG, PNG, ...) in base64 or base64url, or a data: URL",
        json_schema_extra={
            "minLength": 1,
            "contentEncoding": "base64",
            "contentMediaType": "image/*",
        },
    )


class JsonImages(BaseModel):
    """A JSON body."""

    model_config = _STRICT
    images: list[JsonImage] = Field(
        description="at most as many as the service's setting max_images",
        json_schema_extra={"minItems": 1},
    )


class JsonInstance(BaseModel):
    """One image of a body in Vertex AI's form; other members, such as a key, are ignored."""

    b64: str


class JsonInstances(BaseModel):
    """A body in Vertex AI's form; its parameters are ignored."""

    instances: list[JsonInstance]


class RequestHeaders(BaseModel):
    """The headers of a request that runs a model; `time_limit.py` validates them."""

    timeout_ms: str = Field(
        # Not an integer: a header is text, and tools that compare it with a number reject it.
        pattern=r"^([1-9][0-9]{0,6}|[1-7][0-9]{7}|8[0-5][0-9]{6}|86[0-3][0-9]{5}|86400000)$",
        alias="X-Request-Timeout-Ms",
        description=f"milliseconds that the client will wait, 1 to {MAX_TIMEOUT_MS}, counted from "
        "the request's arrival; a request that can't be answered in time is refused (503); "
        "default: the service's setting request_timeout_ms",
        examples=["2000"],
    )
    priority: Literal["high", "low"] = Field(
        alias="X-Request-Priority",
        description="low lets other requests pass until half of its time is gone; default high",
    )
    request_id: str = Field(
        alias="X-Request-Id",
        description="returned if it is 1 to 128 letters, digits and ._:-; otherwise replaced",
        examples=["order-66:photo-2"],
    )


class Prediction(BaseModel):
    """One class and its probability."""

    id: str = Field(description="the class's stable id; for ImageNet the WordNet id")
    label: str
    index: int = Field(description="position in the model's output")
    probability: float


class ImageError(BaseModel):
    """The error of one of several images."""

    code: str
    status: int
    title: str
    detail: str


class ImageResult(BaseModel):
    """One image's labels, most probable first, or its error."""

    name: str | None = Field(
        None, description="the file's name, if a form gives one; at most 255 characters"
    )
    labels: list[Prediction] | None = None
    coverage: float | None = Field(
        None, description="the calibrated level of these labels, if coverage is asked for"
    )
    outside: bool | None = Field(
        None, description="whether the image is outside, if abstain is asked for"
    )
    score: float | None = Field(None, description="its distance; an image is outside above 1")
    width: int | None = Field(None, description="pixels, as displayed (after EXIF orientation)")
    height: int | None = None
    error: ImageError | None = None


class Timings(BaseModel):
    """Milliseconds per stage, the longest of several images; `total` is up to the answer."""

    receive: float
    decode: float = 0
    queue: float = 0
    infer: float = 0
    total: float


class ExplainTimings(Timings):
    """Milliseconds per stage; `explain` is computing and drawing the map."""

    explain: float


class Classification(BaseModel):
    """The answer to a classify request; `results` are in the order of the images."""

    model: str
    version: int
    results: list[ImageResult]
    timings_ms: Timings


class ImageEmbedding(BaseModel):
    """One image's embedding, or its error."""

    name: str | None = Field(None, description="as in a classification")
    embedding: list[float] | None = None
    width: int | None = Field(None, description="pixels, as displayed (after EXIF orientation)")
    height: int | None = None
    error: ImageError | None = None


class Embeddings(BaseModel):
    """The answer to an embed request; `results` are in the order of the images."""

    model: str
    version: int
    results: list[ImageEmbedding]
    timings_ms: Timings


class Region(BaseModel):
    """A part of an image, in pixels of the image as displayed; may be fractions."""

    left: float
    top: float
    right: float
    bottom: float


class Activation(BaseModel):
    """A label's class activation map of one image; rows run from top to bottom."""

    model: str
    version: int
    label: Prediction
    map: list[list[float]]
    region: Region = Field(description="the part of the image that the map covers")
    width: int = Field(description="pixels, as displayed (after EXIF orientation)")
    height: int
    timings_ms: ExplainTimings


class Problem(BaseModel):
    """A problem detail (RFC 9457). `code` names the cause and is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    results: list[ImageResult] | None = Field(
        None, description="each image's error, when all of several failed"
    )


class Queue(BaseModel):
    """How full a model's queue is."""

    images: int
    limit: int


class ModelHealth(BaseModel):
    """One model's state."""

    name: str
    version: int
    state: Literal["warming", "ready", "reloading", "failed"]
    reason: str
    provider: str
    engine: dict[str, Any] = Field(
        description="how a GPU computes: whether graphs are replayed, the tensor layout of "
        "convolutions, how images are copied; empty on the CPU"
    )
    max_batch: int = Field(description="maximum images per batch")
    latency_ms: dict[int, float] = Field(description="median per batch, by batch size")
    queue: Queue


class Broken(BaseModel):
    """A model that is not served; requests for it are answered 503 with the reason."""

    name: str
    version: int
    reason: str


class ParallelismTrial(BaseModel):
    """A candidate's measured figures."""

    runners: int
    intra_op_threads: int
    images_per_s: float
    lone_image_ms: float = Field(description="inference of a single image while nothing else runs")
    steady: bool = Field(description="false if a second try did not confirm the figures")


class Parallelism(BaseModel):
    """How many batches run in parallel, on how many threads each, and why."""

    runners: int
    intra_op_threads: int
    goal: Literal["throughput", "latency"]
    source: Literal["settings", "measured", "cache", "default"] = Field(
        description="cache: measured by an earlier start; default: there was nothing to choose"
    )
    why: str = Field(description="the reason for the choice, in one line")
    candidates: list[ParallelismTrial]


class Device(BaseModel):
    """A GPU; its memory use includes all processes and may be a few seconds old."""

    device_id: int
    name: str | None
    memory_used_bytes: int
    memory_total_bytes: int


class Watch(BaseModel):
    """The watched folder."""

    trouble: str = Field(description="why it can't be followed at present; empty if it can")


class Health(BaseModel):
    """The service's state: "ready" even if some models are broken, "draining" after SIGTERM.

    It is "failed" if no model or not the default one can answer, or a thread or device is lost.
    """

    state: Literal["starting", "ready", "reloading", "draining", "failed"]
    version: str
    uptime_s: float
    parallelism: Parallelism
    devices: list[Device] = Field(description="the GPU in use; empty on the CPU")
    models: list[ModelHealth]
    broken: list[Broken]
    failed_loads: list[Broken] = Field(
        description="files that could not be loaded since the start; what was served still is"
    )
    watch: Watch | None = Field(description="the watched folder; null without the setting watch")


class Probe(BaseModel):
    """The answer to a liveness or readiness probe."""

    ok: bool
    reasons: list[str]


class ModelSummary(BaseModel):
    """One served model."""

    name: str
    version: int
    default: bool
    share: float = Field(
        description="share of the requests that name the model but no version, 0 to 1"
    )
    architecture: str
    state: Literal["warming", "ready", "reloading", "failed"]
    ready: bool = Field(description="whether it answers; clients of KServe V1 read this")
    provider: str
    precision: str
    classes: int
    input_size: int | Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        description="pixels: the side of a square, or height and width"
    )
    accuracy: dict[str, Any] | None


class Limits(BaseModel):
    """What one request may hold."""

    max_images: int = Field(description="images in a request")
    max_body_bytes: int = Field(description="bytes of its body")


class Evicted(BaseModel):
    """A model that is loaded when it is asked for."""

    name: str
    version: int


class Bounded(BaseModel):
    """A share, with bounds that hold at every moment."""

    answers: int = Field(description="answers counted")
    count: int = Field(description="those of them that agreed, or were slow")
    bounds: list[float] = Field(description="lower and upper bound of the share")


class Agreement(Bounded):
    """How often both versions give the same label."""

    at_least: float = Field(description="what is required")


class Slowness(Bounded):
    """How often the candidate is slow."""

    at_most: float = Field(description="what is allowed")
    slower_than_ms: float = Field(description="what is slow; 0: nothing is")


class Rollout(BaseModel):
    """A version that is compared with the one that answers."""

    model: str
    candidate: int
    incumbent: int
    mode: Literal["shadow", "canary"]
    percent: int = Field(description="share of the requests, in percent")
    stage: Literal["running", "promoted", "rolled_back"]
    verdict: Literal["undecided", "good", "bad"]
    reason: str = Field(description="why it ended")
    agreement: Agreement
    slow: Slowness
    dropped: int = Field(description="comparisons left out for want of room")


class Models(BaseModel):
    """All served models, and the limits of requests."""

    models: list[ModelSummary]
    broken: list[Broken]
    evicted: list[Evicted] = Field(
        description="models that made room for others; a request for one is refused (503), and "
        "has it loaded again"
    )
    rollouts: list[Rollout] = Field(description="each model's last rollout")
    limits: Limits


class ModelAvailability(BaseModel):
    """Whether a version of a model can be asked, in the words of Triton's repository index."""

    name: str
    version: int
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


class ModelIndex(BaseModel):
    """All known versions of a model, served or not."""

    models: list[ModelAvailability]


class ModelDetail(ModelSummary):
    """One served model, with its preprocessing, provenance and classes."""

    preprocessing: dict[str, Any]
    multi_label: dict[str, Any] | None = Field(
        description="thresholds of independent labels; null if exactly one label is right"
    )
    calibration: dict[str, Any] | None = Field(
        description="how far the answers can be trusted, as measured; null if that was not"
    )
    weights: dict[str, Any]
    parity: dict[str, Any]
    tolerance: float = Field(description="how far a probability may be off on this device")
    labels: list[dict[str, Any]]


class Percentiles(BaseModel):
    """Milliseconds that half, nine tenths and 99 % don't exceed; null if nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None


class LiveRequests(BaseModel):
    """Requests that run models; `in_flight` counts all others too, but for this one."""

    total: int = Field(description="since the start")
    per_s: float
    in_flight: int
    by_status: dict[str, int]


class LiveStages(BaseModel):
    """How long images took to be decoded and waited for a batch, and how long batches took."""

    decode: Percentiles
    queue: Percentiles
    infer: Percentiles


class LiveModel(BaseModel):
    """What one model is doing."""

    name: str
    version: int
    images_per_s: float
    queued: int = Field(description="images that are admitted but not yet answered")


class Summary(BaseModel):
    """What the service is doing now."""

    uptime_s: float
    window_s: float = Field(description="seconds that the rates and percentiles cover")
    requests: LiveRequests
    latency_ms: Percentiles
    stages_ms: LiveStages
    batch_sizes: dict[str, int] = Field(
        description="batches by size: each up to the given one, and above the one before"
    )
    models: list[LiveModel]
