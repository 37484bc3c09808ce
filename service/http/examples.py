"""Examples for the API's description: real answers of the service with its built-in model."""

from __future__ import annotations

from typing import Any

from service.errors import (
    AdminRequiredError,
    BodyTimeoutError,
    BodyTooLargeError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    HeadersTooLargeError,
    InternalError,
    InvalidParameterError,
    NotAnImageError,
    RolloutError,
    TruncatedImageError,
    UnknownModelError,
)
from service.http.problems import problem

_REQUEST_ID = "8f0b89b6fb7d9f8b9cc1fb3255346355"

PROBLEMS: dict[int, dict[str, Any]] = {
    error.status: problem(error, _REQUEST_ID)
    for error in (
        InvalidParameterError("there is no parameter 'topk'; allowed: top_k, model, version"),
        AdminRequiredError("changing what is served needs the setting admin (--admin)"),
        UnknownModelError("there is no model of that name; available: slim-resnet50"),
        BodyTimeoutError("the body did not arrive within 30 s (body_timeout_s)"),
        BodyTooLargeError("the body is larger than 33554432 bytes (max_body_bytes)"),
        RolloutError("version 3 of flowers is being rolled out"),
        NotAnImageError(
            "the content is not in an accepted image format (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF)"
        ),
        TruncatedImageError("the image's data ends before the image is complete"),
        HeadersTooLargeError("the headers are larger than 65536 bytes"),
        InternalError(f"an internal error; its id is {_REQUEST_ID}"),
        DeadlineUnreachableError(
            "the answer would take about 17 ms, but only 1 ms is left; try again later or allow "
            "more time (X-Request-Timeout-Ms)"
        ),
        DeadlineExceededError("the answer was not ready within 200 ms (X-Request-Timeout-Ms)"),
    )
}
"""A problem detail for each status."""

JSON_IMAGES = {
    "images": [
        {
            "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLv"
            "AAAAAElFTkSuQmCC"
        }
    ]
}

CLASSIFICATION: dict[str, Any] = {
    "model": "slim-resnet50",
    "version": 1,
    "results": [
        {
            "name": "cat.jpg",
            "labels": [{"id": "n02123045", "label": "tabby", "index": 30, "probability": 0.698785}],
            "width": 451,
            "height": 300,
        },
        {
            "name": "notes.txt",
            "error": {name: PROBLEMS[415][name] for name in ("code", "status", "title", "detail")},
        },
    ],
    "timings_ms": {
        "receive": 0.198,
        "decode": 1.531,
        "queue": 0.414,
        "infer": 7.203,
        "total": 10.062,
    },
}

HEALTH = {
    "state": "ready",
    "version": "0.1.0",
    "uptime_s": 207.221,
    "parallelism": {
        "runners": 1,
        "intra_op_threads": 2,
        "goal": "throughput",
        "source": "measured",
        "why": "measured now: 2 runners x 1 thread 110 images/s and a lone image in 10 ms, "
        "1 runner x 2 threads 119 images/s and a lone image in 10.3 ms; 1 runner x 2 threads "
        "has the highest throughput",
        "candidates": [
            {
                "runners": 2,
                "intra_op_threads": 1,
                "images_per_s": 110.2,
                "lone_image_ms": 10.042,
                "steady": True,
            },
            {
                "runners": 1,
                "intra_op_threads": 2,
                "images_per_s": 119.0,
                "lone_image_ms": 10.343,
                "steady": True,
            },
        ],
    },
    "devices": [],
    "broken": [],
    "failed_loads": [],
    "watch": None,
    "models": [
        {
            "name": "slim-resnet50",
            "version": 1,
            "state": "ready",
            "reason": "",
            "provider": "cpu",
            "computed_in": "fp32",
            "agreement": None,
            "faster_by": None,
            "engine": {},
            "max_batch": 8,
            "latency_ms": {"1": 15.308, "2": 26.405, "4": 53.127, "8": 115.12},
            "queue": {"images": 0, "limit": 256},
        }
    ],
}

PROBE = {"ok": True, "reasons": []}

METRICS = """\
# HELP resnet_serve_requests_in_flight Requests being handled.
# TYPE resnet_serve_requests_in_flight gauge
resnet_serve_requests_in_flight 1.0
"""

_MODEL = {
    "name": "slim-resnet50",
    "version": 1,
    "default": True,
    "share": 1.0,
    "architecture": "resnet50",
    "state": "ready",
    "ready": True,
    "provider": "cpu",
    "precision": "fp32",
    "computed_in": "fp32",
    "agreement": None,
    "classes": 200,
    "input_size": 64,
    "accuracy": {
        "data_set": "Tiny-ImageNet validation",
        "images": 10000,
        "top1": 0.6074,
        "top5": 0.8282,
    },
}

MODELS = {"models": [_MODEL], "broken": [], "evicted": [], "rollouts": []}

MODEL_DETAIL = _MODEL | {
    "preprocessing": {
        "resize": 64,
        "crop": 64,
        "interpolation": "bilinear",
        "exif": "apply",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "weights": {
        "source": "ResNet-50 of half width, trained from scratch on Tiny-ImageNet's 100,000 "
        "training images; research use only",
        "sha256": "1ac055581414b01c7dd0d6ab28f6dee8325b7e56f5d3a5fa167782766118d2d5",
    },
    "parity": {
        "max_abs_diff": 0.0005078315734863281,
        "top1_agreement": 1.0,
        "images": 40,
        "batch_sizes": [1, 2, 5, 32],
    },
    "tolerance": 0.0001,
    "labels": [
        {"id": "n01443537", "label": "goldfish"},
        {"id": "n01629819", "label": "European fire salamander"},
    ],
}
"""Truncated to the first two labels."""

MODEL_INDEX = {
    "models": [
        {"name": "flowers", "version": 1, "state": "READY", "reason": ""},
        {"name": "flowers", "version": 2, "state": "READY", "reason": ""},
    ]
}

MODEL_UNLOADED = {
    "models": [
        {"name": "flowers", "version": version, "state": "UNAVAILABLE", "reason": "unloaded"}
        for version in (1, 2)
    ]
}

ROLLOUT = {
    "model": "flowers",
    "candidate": 3,
    "incumbent": 2,
    "mode": "canary",
    "percent": 10,
    "stage": "running",
    "verdict": "undecided",
    "reason": "",
    "agreement": {"answers": 80, "count": 79, "bounds": [0.877, 1.0], "at_least": 0.95},
    "slow": {
        "answers": 84,
        "count": 0,
        "bounds": [0.0, 0.0923],
        "at_most": 0.05,
        "slower_than_ms": 50.0,
    },
    "dropped": 4,
}
