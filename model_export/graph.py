"""A trained network as an ONNX graph, with preprocessing and softmax inside.

    images uint8 [N, H, W, 3] -> [N, 3, H, W] float32 -> minus mean x 255 -> network -> softmax

The division by 255 x std is folded into the first convolution's weights, and batch normalisation
into the convolution before it. The mean can't be folded: the zero padding comes after it.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from model_export.architectures.resnet import ResNet, pool
from model_export.errors import GraphError
from service.contract import INPUT_NAME, PROBABILITIES, Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

Storage = Literal["fp32", "fp16"]

OPSET = 18
IR_VERSION = 10
"""Read by every ONNX Runtime since 1.18; the onnx package's own default is for newer ones only."""

OPTIONAL_OUTPUTS: tuple[Literal["embedding", "features", "classifier_weight"], ...] = (
    "embedding",
    "features",
    "classifier_weight",
)

_CLASSIFIER = "network.fc.weight"  # as the exporter names the parameter
_SMALLEST_HALVED = 256  # values; below this, a Cast node costs more bytes than float16 saves


class ServedNetwork(nn.Module):
    """What a model file computes: the network with its preprocessing and softmax."""

    offset: Tensor

    def __init__(self, network: ResNet, mean: tuple[float, float, float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", torch.tensor(mean).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map uint8 [N, H, W, 3] to probabilities [N, C], embedding [N, D], features."""
        x = images.permute(0, 3, 1, 2).to(torch.float32) - self.offset
        features = self.network.features(x)
        embedding = pool(features)
        return torch.softmax(self.network.fc(embedding), dim=1), embedding, features


def prepare(network: ResNet, preprocessing: Preprocessing, storage: Storage) -> ServedNetwork:
    """Copy a trained network into the form that is written: everything folded, weights rounded.

    Raises `GraphError` when a weight is outside float16's range.
    """
    network = copy.deepcopy(network).eval()
    _fold_batch_norms(network)
    with torch.no_grad():
        network.conv1.weight /= 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1)
        if storage == "fp16":
            _round_weights(network)
    return ServedNetwork(network, preprocessing.mean).eval()


def to_onnx(served: ServedNetwork, side: int) -> ModelProto:
    """Write the graph, for any batch size, that takes images of `side` x `side` pixels.

    Weights that float16 holds exactly (see `prepare`) are stored so and cast to float32, which
    ONNX Runtime does once, at load. Raises `GraphError` when PyTorch's exporter gives something
    else than what was asked for.
    """
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            served,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT_NAME],
            output_names=[PROBABILITIES, "embedding", "features"],
            verbose=False,
        )
    if program is None:
        raise GraphError("PyTorch's exporter gave no graph")
    model = program.model_proto
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if opsets != {"": OPSET}:
        raise GraphError(f"the graph uses the operator sets {opsets}, not {OPSET} alone")
    model.ir_version = IR_VERSION
    _strip(model)
    _publish_classifier(model, served.network.fc)
    _halve(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution declared just before it."""
    for module in list(network.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


def _round_weights(network: ResNet) -> None:
    """Round weights to float16's grid, but for the first convolution's.

    Those are divided by about 58, and many would fall below float16's normal range.
    """
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module is not network.conv1:
            rounded = module.weight.half().float()
            if not torch.isfinite(rounded).all():
                raise GraphError(f"{name}.weight has values outside float16's range of +-65504")
            module.weight.copy_(rounded)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own internals off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model: ModelProto) -> None:
    """Drop what tells of the machine (source paths in every node) and nothing of the model."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _publish_classifier(model: ModelProto, classifier: nn.Linear) -> None:
    """Make the classifier's weight [C, D] an output: the initializer itself, no node added."""
    shape = [classifier.out_features, classifier.in_features]
    _rename(model, _CLASSIFIER, "classifier_weight")
    model.graph.output.append(
        helper.make_tensor_value_info("classifier_weight", TensorProto.FLOAT, shape)
    )


def _rename(model: ModelProto, old: str, new: str) -> None:
    found = [value for value in model.graph.initializer if value.name == old]
    if len(found) != 1:
        raise GraphError(f"the graph has no weight {old}")
    found[0].name = new
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _halve(model: ModelProto) -> None:
    """Store as float16 what float16 holds exactly, and cast it back; the values stay the same."""
    casts = []
    for value in model.graph.initializer:
        if value.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(value)
        with np.errstate(over="ignore"):
            halved = array.astype(np.float16)
        if array.size < _SMALLEST_HALVED or not np.array_equal(halved.astype(np.float32), array):
            continue
        name = value.name
        value.CopyFrom(numpy_helper.from_array(halved, f"{name}.fp16"))
        casts.append(
            helper.make_node(
                "Cast", [value.name], [name], name=f"cast_{name}", to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
