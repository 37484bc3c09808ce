"""What the protocol tells about the server and its models: plain data for JSON and protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service import __version__
from service.contract import INPUT_NAME, PROBABILITIES
from service.kserve.tensors import FP32, UINT8
from service.models.index import IndexEntry
from service.models.model import ServedModel
from service.models.model_set import ModelSet
from service.models.totals import Total

SERVER_NAME = "resnet-serve"
PLATFORM = "onnxruntime_onnx"
LABELS_FILE = "labels.txt"

NO_TRACING = "this service does not trace; its metrics are at /metrics"
NO_LOGGING = "the log is set by --log-level and --log-format at the start"
NO_SHARED_MEMORY = "shared memory is not supported; send tensors in the request"

EXTENSIONS = (
    "classification",
    "binary_tensor_data",
    "schedule_policy",
    "model_configuration",
    "model_repository",
    "statistics",
    "parameters",
)


def server_metadata() -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel, models: ModelSet) -> dict[str, Any]:
    """Return a model's versions, its input and its output; its optional outputs are not listed.

    Triton's image clients take only models with one of each.
    """
    height, width = model.contract.preprocessing.input_size
    classes = len(model.contract.labels)
    return {
        "name": model.name,
        "versions": [str(version) for version in models.versions(model.name)],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT_NAME, "datatype": UINT8, "shape": [-1, height, width, 3]}],
        "outputs": [{"name": PROBABILITIES, "datatype": FP32, "shape": [-1, classes]}],
    }


def model_config(model: ServedModel, max_images: int) -> dict[str, Any]:
    """Return a model's configuration as Triton's clients expect it."""
    height, width = model.contract.preprocessing.input_size
    classes = len(model.contract.labels)
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"all": {}},
        "max_batch_size": max_images,
        "input": [
            {
                "name": INPUT_NAME,
                "data_type": f"TYPE_{UINT8}",
                "format": "FORMAT_NHWC",
                "dims": [height, width, 3],
            }
        ],
        "output": [
            {
                "name": PROBABILITIES,
                "data_type": f"TYPE_{FP32}",
                "dims": [classes],
                "label_filename": LABELS_FILE,
            }
        ],
        "dynamic_batching": {"preferred_batch_size": [model.max_batch], "priority_levels": 2,
                             "default_priority_level": 1},
    }  # fmt: skip


def model_statistics(model: ServedModel) -> dict[str, Any]:
    """Return what a model has done, in Triton's names; `success` counts requests, not images.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
    """
    totals, nothing = model.totals, Total()
    stages = {
        "success": totals.succeeded,
        "fail": totals.failed,
        "queue": totals.queue,
        "compute_input": totals.decode,
        "compute_infer": totals.infer,
        # Top-k and rendering are not timed, but perf_analyzer takes only equal counts.
        "compute_output": Total(totals.infer.count),
        "cache_hit": nothing,
        "cache_miss": nothing,
    }
    return {
        "name": model.name,
        "version": str(model.version),
        "last_inference": round(totals.last * 1000),
        "inference_count": totals.images,
        "execution_count": model.batches,
        "inference_stats": {
            name: {"count": total.count, "ns": round(total.seconds * 1e9)}
            for name, total in stages.items()
        },
        "batch_stats": [],
    }


def repository_index(entries: Sequence[IndexEntry]) -> list[dict[str, Any]]:
    """Return every known version of every model, with its state and why it is not ready."""
    return [
        {
            "name": entry.name,
            "version": str(entry.version),
            "state": str(entry.state),
            "reason": entry.reason,
        }
        for entry in entries
    ]
