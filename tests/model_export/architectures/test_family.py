"""Every architecture: its published size, its file, and what is special about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from networks import patterns, preprocessing, random_network

from model_export.architectures import ARCHITECTURES, Bot, Residual
from model_export.architectures.botnet import RelativePositions
from model_export.architectures.build import build
from model_export.architectures.classifier import FeatureClassifier, fixed_side
from model_export.checkpoint import Checkpoint
from model_export.cost import graph_cost
from model_export.errors import OptionsError
from model_export.graph import optional_outputs, prepare, to_onnx
from model_export.listing import multiply_adds
from model_export.loading import build_network, side_of
from model_export.reference import references
from model_export.verify import measure_parity

# As torchvision documents them, or timm counts them.
PARAMETERS = {
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "seresnet50": 28_088_024,
    "resnet50d": 25_576_264,
    "ecaresnet50d": 25_576_350,
    "resnest50d": 27_483_240,
    "resnest101e": 48_275_016,
    "dilated_resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "botnet26t_256": 12_488_672,
    "botnet50ts_256": 22_742_688,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "alexnet": 61_100_840,
}

# One of each kind, as narrow as its groups allow, at a side that its stem makes sense of, and with
# no more blocks than differ.
KINDS = [
    ("resnet18", 8, 32, "small", (1, 1, 1, 2)),
    ("resnet50", 8, 32, "small", (1, 1, 1, 2)),
    ("resnext50_32x4d", 16, 32, "small", (1, 1, 1, 2)),
    ("wide_resnet50_2", 8, 32, "small", (1, 1, 1, 2)),
    ("seresnet50", 8, 32, "small", (1, 1, 1, 2)),
    ("cbam_resnet50", 8, 32, "small", (1, 1, 1, 2)),
    ("dilated_resnet50", 8, 64, None, (1, 1, 2, 2)),
    ("separable_resnet50", 8, 64, None, (1, 1, 1, 2)),
    ("resnet18d", 8, 64, None, (1, 1, 1, 2)),
    ("resnet50d", 8, 64, None, (1, 1, 1, 2)),
    ("ecaresnet50d", 8, 64, None, (1, 1, 1, 2)),
    ("resnest50d", 8, 64, None, (1, 1, 1, 2)),
    ("resnest101e", 8, 64, None, (1, 1, 1, 2)),
    ("densenet121", 8, 64, None, (2, 2, 2, 2)),
    ("botnet26t_256", 8, 64, None, None),
    ("botnet50ts_256", 8, 64, None, None),
    ("mobilenet_v2", 8, 64, None, None),
    ("mobilenet_v3_large", 8, 64, None, None),
    ("alexnet", 8, 224, None, None),
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_size_is_the_published_one(name: str):
    with torch.device("meta"):
        network = build(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "width", "side", "stem", "depths"), KINDS)
def test_the_file_computes_what_pytorch_does(tmp_path: Path, name, width, side, stem, depths):
    """With everything folded that can be, at several batch sizes, in every output."""
    network = random_network(name, base_width=width, stem=stem, side=side, depths=depths)
    images, path = preprocessing(side), tmp_path / "model.onnx"
    served = prepare(network, images)
    model = to_onnx(served, (side, side))
    onnx.save(model, path)
    pytorch = references(network, served, images, "fp32")
    parity = measure_parity(path, pytorch, "fp32", size=(side, side), largest_batch=3)
    assert parity.max_abs_diff < 1e-5
    answers = pytorch.trained(patterns(8, side))["probabilities"]
    assert answers.std(axis=0).max() > 1e-3  # images are told apart, so there is something to see
    expected = ["probabilities", *optional_outputs(network)]
    assert [output.name for output in model.graph.output] == expected
    assert graph_cost(model).multiply_adds == multiply_adds(network, side)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node) or (
        # Theirs come before a convolution too, or after attention.
        name in {"densenet121", "botnet26t_256", "botnet50ts_256"}
    )


def kind_of(name: str) -> object:
    """What its file depends on: neither the number of blocks, nor how wide groups are."""
    spec = ARCHITECTURES[name]
    if isinstance(spec, Bot):
        return spec
    if not isinstance(spec, Residual):
        return type(spec)
    groups = (2, 0) if spec.groups > 1 else (1, spec.width_per_group)
    return replace(spec, depths=(1, 1, 1, 1), groups=groups[0], width_per_group=groups[1])


def test_one_of_each_kind_is_compared_with_pytorch():
    """Whatever is registered: `KINDS` has a row for it."""
    missing = {kind_of(name): name for name in ARCHITECTURES}
    for name, *_ in KINDS:
        missing.pop(kind_of(name))
    assert list(missing.values()) == []


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_large"])
def test_several_linear_layers_have_no_feature_map(name: str):
    assert optional_outputs(build(name, width=8)) == ()


@pytest.mark.parametrize(("name", "side"), [("resnet50", 7), ("dilated_resnet50", 28)])
def test_dilation_keeps_the_resolution_of_the_last_two_stages(name: str, side: int):
    """And parameters are named and shaped as without it, so that the same weights load."""
    with torch.device("meta"):
        network, plain = build(name), build("resnet50")
        assert isinstance(network, FeatureClassifier)
        features = network.feature_map(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, 2048, side, side)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in plain.state_dict().items()}
    layer: Any = network.layer4
    dilations = [block.conv2.dilation[0] for block in layer]
    assert dilations == ([1, 1, 1] if side == 7 else [2, 4, 4])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("seresnet50", {"layer1.0.se.fc1.weight": (16, 256, 1, 1), "layer1.0.se.fc2.bias": (256,)}),
        ("resnet50d", {"conv1.0.weight": (32, 3, 3, 3), "conv1.6.weight": (64, 32, 3, 3),
                       "layer2.0.downsample.1.weight": (512, 256, 1, 1)}),
        ("separable_resnet50", {"layer1.0.conv2.depthwise.weight": (64, 1, 3, 3),
                                "layer4.2.conv2.pointwise.weight": (512, 512, 1, 1)}),
        ("cbam_resnet50", {"layer1.0.se.channel.fc1.weight": (16, 256, 1, 1),
                           "layer1.0.se.spatial.conv.conv.weight": (1, 2, 7, 7),
                           "layer1.0.se.spatial.conv.bn.weight": (1,)}),
        ("ecaresnet50d", {"layer1.0.se.conv.weight": (1, 1, 5),
                          "layer4.0.se.conv.weight": (1, 1, 7)}),
        ("resnest50d", {"layer1.0.conv2.conv.weight": (128, 32, 3, 3),
                        "layer1.0.conv2.fc1.weight": (32, 64, 1, 1),
                        "layer4.2.conv2.fc2.weight": (1024, 256, 1, 1),
                        "layer1.0.conv2.bn0.bias": (128,)}),
        ("resnest101e", {"conv1.0.weight": (64, 3, 3, 3), "bn1.weight": (128,),
                         "layer1.0.conv1.weight": (64, 128, 1, 1)}),
        ("densenet161", {"features.conv0.weight": (96, 3, 7, 7),
                         "features.denseblock1.denselayer1.conv1.weight": (192, 96, 1, 1),
                         "features.transition1.conv.weight": (192, 384, 1, 1),
                         "classifier.weight": (1000, 2208)}),
        ("botnet26t_256", {"stem.conv1.conv.weight": (24, 3, 3, 3),
                           "stages.1.0.shortcut.conv.weight": (512, 256, 1, 1),
                           "stages.2.0.conv2_kxk.bn.bias": (256,),
                           "stages.2.1.self_attn.qkv.weight": (768, 256, 1, 1),
                           "stages.3.0.self_attn.pos_embed.width_rel": (31, 128),
                           "stages.3.1.self_attn.pos_embed.height_rel": (15, 128),
                           "stages.3.1.post_attn.weight": (512,),
                           "head.fc.weight": (1000, 2048)}),
        ("botnet50ts_256", {"stages.1.3.self_attn.pos_embed.height_rel": (63, 32),
                            "stages.2.5.post_attn.weight": (256,),
                            "stages.3.2.conv2_kxk.conv.weight": (512, 512, 3, 3)}),
        ("mobilenet_v2", {"features.1.conv.0.0.weight": (32, 1, 3, 3),
                          "features.2.conv.2.weight": (24, 96, 1, 1),
                          "features.18.1.running_var": (1280,),
                          "classifier.1.weight": (1000, 1280)}),
        ("mobilenet_v3_large", {"features.1.block.1.0.weight": (16, 16, 1, 1),
                                "features.4.block.2.fc1.weight": (24, 72, 1, 1),
                                "features.16.0.weight": (960, 160, 1, 1),
                                "classifier.0.weight": (1280, 960),
                                "classifier.3.weight": (1000, 1280)}),
        ("alexnet", {"features.3.weight": (192, 64, 5, 5), "classifier.1.weight": (4096, 9216),
                     "classifier.6.weight": (1000, 4096)}),
    ],
)  # fmt: skip
def test_parameters_are_named_as_in_torchvision_or_timm(name: str, parameters: dict):
    with torch.device("meta"):
        state = build(name).state_dict()
    for parameter, shape in parameters.items():
        assert state[parameter].shape == shape


def test_shortcuts_are_averaged_and_not_skipped():
    """A pixel in an odd place reaches the output of a shortcut in ResNet-D."""
    layer: Any = build("resnet18d", width=8).eval().layer2
    shortcut = layer[0].downsample
    image = torch.zeros(1, 8, 8, 8)
    image[..., 3, 3] = 1
    assert (shortcut(image) - shortcut(torch.zeros(1, 8, 8, 8))).abs().max() > 0


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "botnet26t_256", "alexnet"])
def test_a_stem_that_a_network_cannot_have_is_refused(name: str):
    with pytest.raises(OptionsError, match=f"{name} has only one stem"):
        build(name, stem="small")


@pytest.mark.parametrize("name", ["botnet26t_256", "botnet50ts_256"])
@pytest.mark.parametrize("side", [64, 96])
def test_the_side_of_a_botnets_images_is_known_from_its_parameters(name: str, side: int):
    state = build(name, width=8, classes=5, side=side).state_dict()
    checkpoint = Checkpoint(Path("net.pth"), "", state)
    assert side_of(name, checkpoint) == side
    network = build_network(name, checkpoint)
    assert fixed_side(network) == side
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, side, side)).shape == (1, 5)


def test_a_botnets_side_and_width_must_be_divided_evenly():
    with pytest.raises(OptionsError, match="input size 80: a BoTNet's is a multiple of 32"):
        build("botnet26t_256", side=80)
    with pytest.raises(OptionsError, match="width 20: a BoTNet's is a multiple of 8"):
        build("botnet26t_256", width=20)


def test_a_query_finds_its_positions_by_their_distance():
    """Written down again without shifting."""
    side, features = 4, 3
    positions = RelativePositions(side, features)
    queries = torch.randn(2, side * side, features)
    with torch.inference_mode():
        logits = positions(queries)
        for query in range(side * side):
            for key in range(side * side):
                down, across = key // side - query // side, key % side - query % side
                row = positions.height_rel[down + side - 1] + positions.width_rel[across + side - 1]
                torch.testing.assert_close(logits[:, query, key], queries[:, query] @ row)
