"""A trained network as an ONNX graph, with preprocessing and softmax inside.

    images uint8 [N, H, W, 3] -> [N, 3, H, W] float32 -> minus mean x 255 -> network -> softmax

The division by 255 x std is folded into the first convolution's weights, and batch normalisation
into the convolution before it. The mean can't be folded, since zero padding comes after its
subtraction. A network that was not built here is exported without any folding.
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

from model_export.architectures.classifier import FeatureClassifier, FoldableClassifier, pool
from model_export.errors import GraphError
from model_export.options import Storage
from service.contract import INPUT_NAME, PROBABILITIES, Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

OutputName = Literal["embedding", "features", "classifier_weight"]

OPSET = 18
IR_VERSION = 10
"""Supported by every ONNX Runtime since 1.18; the onnx package's default needs newer ones."""

OPTIONAL_OUTPUTS: tuple[OutputName, ...] = ("embedding", "features", "classifier_weight")
"""The optional outputs of a `FeatureClassifier`; other networks have none."""

_SMALLEST_HALVED = 256  # values; below this, a Cast node takes more bytes than float16 saves


class ServedNetwork(nn.Module):
    """What a model file computes: the network with its preprocessing and softmax.

    If the division by 255 x std is not folded into the weights, `scale` has the reciprocal. In half
    precision the network computes in float16, except for its classifier: the preprocessing, the
    outputs, and the logits for the softmax are float32.
    """

    offset: Tensor
    scale: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, float, float],
        *,
        std: tuple[float, float, float] | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.network = _halved(network) if half else network
        self.half_precision = half
        self.register_buffer("offset", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        scale = None if std is None else 1 / (255 * torch.tensor(std).view(1, 3, 1, 1))
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 [N, H, W, 3] to probabilities [N, C].

        A `FeatureClassifier` also returns the embedding [N, D] and the feature map [N, D, h, w].
        """
        x = images.permute(0, 3, 1, 2).to(torch.float32) - self.offset
        if self.scale is not None:
            x = x * self.scale
        if self.half_precision:
            x = x.half()
        if not isinstance(self.network, FeatureClassifier):
            return (torch.softmax(self.network(x).float(), dim=1),)
        features = self.network.feature_map(x).float()
        embedding = pool(features)
        return torch.softmax(self.network.linear(embedding), dim=1), embedding, features


def prepare(
    network: nn.Module, preprocessing: Preprocessing, storage: Storage = "fp32"
) -> ServedNetwork:
    """Copy a trained network into the form to export: everything folded, weights rounded.

    Raises `GraphError` if a weight that is stored as float16 is outside its range.
    """
    network = copy.deepcopy(network).eval()
    foldable = isinstance(network, FoldableClassifier)
    with torch.no_grad():
        if isinstance(network, FoldableClassifier):
            _fold_batch_norms(network)
            std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
            network.first_convolution.weight /= 255 * std
        if storage == "fp16":
            _round_weights(network)
    std_left = None if foldable else preprocessing.std
    return ServedNetwork(network, preprocessing.mean, std=std_left).eval()


def _halved(network: nn.Module) -> nn.Module:
    """Convert a network to float16, except for its classifier."""
    linear = copy.deepcopy(network.linear) if isinstance(network, FeatureClassifier) else None
    network.half()
    if isinstance(network, FeatureClassifier) and linear is not None:
        network.linear.float().load_state_dict(linear.state_dict())
    return network


def prepare_half(network: nn.Module, preprocessing: Preprocessing) -> ServedNetwork:
    """Copy a trained network into a form that computes in float16.

    The scale is not folded into the weights, since many would fall below float16's normal range.
    Raises `GraphError` if a weight is outside float16's range.
    """
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        if isinstance(network, FoldableClassifier):
            _fold_batch_norms(network)
        _check_half_range(network)
    return ServedNetwork(network, preprocessing.mean, std=preprocessing.std, half=True).eval()


def to_onnx(served: ServedNetwork, size: tuple[int, int], storage: Storage = "fp32") -> ModelProto:
    """Return the graph, for any batch size and images of that `size` (height, width).

    With `storage` "fp16", weights that float16 represents exactly (see `prepare`) are stored as
    float16 and cast to float32, which ONNX Runtime does once, at load. Raises `GraphError` if
    PyTorch's exporter fails or returns an unexpected graph.
    """
    images = torch.zeros(2, *size, 3, dtype=torch.uint8)
    outputs = [PROBABILITIES, *optional_outputs(served.network)][:3]
    with _quiet():
        try:
            program = torch.onnx.export(
                served,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT_NAME],
                output_names=outputs,
                verbose=False,
            )
        except Exception as error:  # the exporter's errors share no other base class
            raise GraphError(f"PyTorch can't export the network: {_summary(error)}") from error
    if program is None:
        raise GraphError("PyTorch's exporter returned no graph")
    model = program.model_proto
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if opsets != {"": OPSET}:
        raise GraphError(f"the graph uses the operator sets {opsets}, not {OPSET} alone")
    model.ir_version = IR_VERSION
    _strip(model)
    if isinstance(served.network, FeatureClassifier):
        _publish_classifier(model, served, served.network.linear)
    if storage == "fp16":
        _halve(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def optional_outputs(network: nn.Module) -> tuple[OutputName, ...]:
    """Return the names of a network's outputs in addition to probabilities."""
    return OPTIONAL_OUTPUTS if isinstance(network, FeatureClassifier) else ()


def _fold_batch_norms(network: FoldableClassifier) -> None:
    """Fold each batch normalisation into the convolution declared just before it.

    The convolution may be the last of a sequence, as in a deep stem.
    """
    for module in list(network.modules()):
        for (name, before), (norm_name, norm) in pairwise(list(module.named_children())):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if isinstance(before, nn.Conv2d):
                setattr(module, name, fuse_conv_bn_eval(before, norm))
            elif isinstance(before, nn.Sequential) and isinstance(before[-1], nn.Conv2d):
                before[-1] = fuse_conv_bn_eval(before[-1], norm)
            else:
                continue
            setattr(module, norm_name, nn.Identity())


def _round_weights(network: nn.Module) -> None:
    """Round weights to float16's grid, except the first convolution's.

    Those are divided by about 58, so many would fall below float16's normal range.
    """
    _check_half_range(network)
    first = network.first_convolution if isinstance(network, FoldableClassifier) else None
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module is not first:
            module.weight.copy_(module.weight.half())


def _check_half_range(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter.half()).all():
            raise GraphError(f"{name} has values outside float16's range of +-65504")


def _summary(error: Exception) -> str:
    """Return the exporter's reason: the innermost cause, without the debugging advice around it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about its own internals."""
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
    """Drop metadata about the machine, such as source paths in every node."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _publish_classifier(model: ModelProto, served: ServedNetwork, classifier: nn.Linear) -> None:
    """Make the classifier's weight [C, D] an output: the initializer itself, no node added."""
    shape = [classifier.out_features, classifier.in_features]
    # The exporter names parameters as PyTorch does.
    names = [name for name, value in served.named_parameters() if value is classifier.weight]
    _rename(model, names[0], "classifier_weight")
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
    """Store weights that float16 represents exactly as float16, with a Cast back to float32."""
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
