"""The contract in a model file's metadata: written, read, and refused when invalid."""

from __future__ import annotations

import json

import pytest
from color_model import ALLOWED, as_schema_1, color_contract, write_color_model
from pydantic import ValidationError

from service.contract import (
    METADATA_KEY,
    Accuracy,
    GoldenPattern,
    ModelContract,
    parse_contract,
    wilson_lower_bound,
)
from service.engine.onnx import load_engine
from service.errors import ContractError


def as_metadata(contract: ModelContract, **changes: object) -> dict[str, str]:
    """A contract as JSON; a change to None takes the field away."""
    fields = json.loads(contract.model_dump_json()) | changes
    return {METADATA_KEY: json.dumps({k: v for k, v in fields.items() if v is not None})}


def old_metadata(contract: ModelContract, **changes: object) -> dict[str, str]:
    """A contract of schema 1 as JSON; a change to None takes the field away."""
    fields = as_schema_1(contract) | changes
    return {METADATA_KEY: json.dumps({k: v for k, v in fields.items() if v is not None})}


def refusal(metadata: dict[str, str]) -> str:
    with pytest.raises(ContractError) as caught:
        parse_contract(metadata, file="models/some.onnx")
    message = str(caught.value)
    assert message.startswith("models/some.onnx: ")
    assert "\n" not in message
    return message


def test_a_contract_comes_back_as_it_was_written():
    contract = color_contract(
        accuracy=Accuracy(data_set="some", images=10, top1=0.5, top5=1),
        optional_outputs=("embedding",),
    )
    metadata = {METADATA_KEY: contract.model_dump_json()}
    assert parse_contract(metadata, file="x") == contract


def test_a_contract_comes_back_from_a_model_file(tmp_path):
    contract = color_contract(name="blue-or-not")
    engine = load_engine(write_color_model(tmp_path / "x.onnx", contract), provider="cpu")
    assert parse_contract(engine.metadata, file="x") == contract


def test_a_file_without_a_contract_is_told_the_commands_that_make_one():
    """It is mostly another program's ONNX file."""
    message = refusal({"producer": "someone"})
    assert "`resnet-export adopt models/some.onnx --output NAME.onnx`" in message
    assert "resnet-export export" in message


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "not JSON", '{"name": "x"}'])
def test_a_contract_that_is_no_contract_is_refused(text):
    assert "its contract is invalid" in refusal({METADATA_KEY: text})


@pytest.mark.parametrize("name", ["name", "labels", "preprocessing", "golden", "tolerances"])
def test_a_missing_field_is_named(name):
    assert f"{name}: " in refusal(as_metadata(color_contract(), **{name: None}))


def test_an_unknown_field_is_named():
    """It comes from a newer exporter, and may well matter."""
    assert "color_space: " in refusal(as_metadata(color_contract(), color_space="Display P3"))


def test_an_unknown_field_deep_inside_is_named_with_its_place():
    fields = json.loads(color_contract().model_dump_json())
    fields["preprocessing"]["gamma"] = 2.2
    assert "preprocessing.gamma: " in refusal({METADATA_KEY: json.dumps(fields)})


def test_a_message_stays_one_line_whatever_the_file_says():
    assert "a b" in refusal(as_metadata(color_contract(), **{"a\nb": 1}))


def test_a_newer_schema_is_refused_as_that():
    message = refusal(as_metadata(color_contract(), schema_version=4))
    assert "schema_version: 4 is from a newer release; this one reads up to 3" in message


@pytest.mark.parametrize(
    ("changes", "schema"),
    [
        ({}, 2),
        ({"interpolation": "lanczos"}, 2),
        ({"interpolation": "hamming"}, 3),
        ({"fit": "squash"}, 3),
        ({"offset": "even"}, 3),
        ({"crop": [8, 7]}, 3),
        ({"crop": [8, 8]}, 2),
    ],
)
def test_the_schema_is_the_oldest_that_can_say_it(changes, schema):
    """So that older releases read what they can serve, and refuse the rest as newer."""
    fields = json.loads(color_contract().model_dump_json())["preprocessing"] | changes
    contract = parse_contract(as_metadata(color_contract(), preprocessing=fields), file="m.onnx")
    assert contract.schema_version == schema
    assert parse_contract(as_metadata(contract), file="m.onnx") == contract


@pytest.mark.parametrize(
    ("multi_label", "said"),
    [
        ({"threshold": 1.5}, "multi_label.threshold"),
        ({"thresholds": {"c7": 0.5}}, "has a threshold for 'c7', which is no label"),
    ],
)
def test_thresholds_that_no_label_can_have_are_refused(multi_label, said):
    assert said in refusal(as_metadata(color_contract(), multi_label=multi_label))


@pytest.mark.parametrize("version", [0, -1, 1, 1.5, "2", "new", [], True])
def test_a_schema_that_is_none_or_does_not_have_these_fields_is_refused(version):
    assert "schema_version: " in refusal(as_metadata(color_contract(), schema_version=version))


def test_a_golden_case_of_another_number_of_classes_is_refused():
    golden = [{"kind": "pattern", "seed": 1, "probabilities": [0.5, 0.5]}]
    assert "2 probabilities for 3 labels" in refusal(as_metadata(color_contract(), golden=golden))


def test_a_contract_without_a_golden_case_is_refused():
    """There would be nothing to hold the model to."""
    assert "golden" in refusal(as_metadata(color_contract(), golden=[]))


def test_label_ids_are_unique():
    labels = [{"id": "same", "label": "a"}, {"id": "same", "label": "b"}, {"id": "c", "label": "c"}]
    assert "not unique" in refusal(as_metadata(color_contract(), labels=labels))


def test_two_classes_may_have_one_name():
    """ImageNet has two kinds of crane."""
    labels = [{"id": str(i), "label": "crane"} for i in range(3)]
    contract = parse_contract(as_metadata(color_contract(), labels=labels), file="x")
    assert len(contract.labels) == 3


def test_one_label_is_no_classification():
    assert "labels" in refusal(as_metadata(color_contract(), labels=[{"id": "a", "label": "a"}]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": 9}, "crop (9) is larger than resize (8)"),
        ({"crop": 0}, "crop"),
        ({"resize": 5000, "crop": 8}, "resize"),
        ({"interpolation": "spline"}, "interpolation"),
        ({"exif": "maybe"}, "exif"),
        ({"mean": [0, 0]}, "mean"),
    ],
)
def test_preprocessing_that_can_not_be_done_is_refused(changes, said):
    fields = json.loads(color_contract().model_dump_json())["preprocessing"] | changes
    assert said in refusal(as_metadata(color_contract(), preprocessing=fields))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_refused(value):
    """JSON has no NaN, but parsers read it; nothing would agree with such a golden case."""
    text = color_contract().model_dump_json().replace('"std":[1.0,', f'"std":[{value},')
    assert value in text
    assert "preprocessing.std" in refusal({METADATA_KEY: text})


@pytest.mark.parametrize("tolerance", [0, 1, -0.1])
def test_a_tolerance_of_nothing_or_of_everything_is_refused(tolerance):
    fields = {"cpu": {"fp32": tolerance}, "cuda": {"fp32": 1e-3}}
    message = refusal(as_metadata(color_contract(), tolerances=fields))
    assert "tolerances.cpu.fp32" in message


@pytest.mark.parametrize(
    "tolerances", [{}, {"cuda": {"fp32": 1e-3}}, {"cpu": {}}, {"cpu": {"fp16": 1e-3}}]
)
def test_a_file_that_has_no_tolerance_of_the_cpu_at_its_precision_is_refused(tolerances):
    """It stands in for those of all other providers."""
    message = refusal(as_metadata(color_contract(), tolerances=tolerances))
    assert "tolerances: has none for cpu at fp32" in message


@pytest.mark.parametrize("tolerances", [{"C P U": {"fp32": 1e-3}}, {"cpu": {"fp31": 1e-3}}, 1, []])
def test_tolerances_of_no_provider_or_precision_are_refused(tolerances):
    assert "tolerances" in refusal(as_metadata(color_contract(), tolerances=tolerances))


def test_a_provider_without_a_tolerance_at_the_files_precision_has_the_cpus():
    tolerances = {
        "cpu": {"fp16": 0.01, "fp32": 0.5},
        "cuda": {"fp16": 0.02},
        "openvino": {"fp32": 0.3},
    }
    contract = color_contract(precision="fp16", tolerances=tolerances)
    names = ("cpu", "cuda", "openvino", "unknown")
    assert [contract.tolerance(name) for name in names] == [0.01, 0.02, 0.01, 0.01]
    assert contract.loosest_tolerance == 0.02


# Schema 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", [1, None])
def test_tolerances_of_schema_1_are_those_at_the_files_precision(precision, version):
    contract = color_contract(
        precision=precision, tolerances={"cpu": {precision: 0.01}, "cuda": {precision: 0.02}}
    )
    metadata = old_metadata(contract, schema_version=version)
    assert "tolerances" not in metadata[METADATA_KEY]
    assert parse_contract(metadata, file="x") == contract


def test_a_contract_of_schema_1_is_written_as_one_of_schema_2():
    read = parse_contract(old_metadata(color_contract()), file="x")
    fields = json.loads(read.model_dump_json())
    assert fields["schema_version"] == 2
    assert fields["tolerances"] == {"cpu": {"fp32": 1e-4}, "cuda": {"fp32": 1e-3}}
    assert "tolerance" not in fields


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tolerance": None}, "tolerances: "),
        ({"tolerance": 0.1}, "tolerances: "),
        ({"tolerance": {"cpu": 2, "cuda": 1e-3}}, "tolerances.cpu.fp32: must be below 1"),
        ({"tolerance": {"cuda": 1e-3}}, "has none for cpu"),
        ({"precision": ["fp32"]}, "precision: "),
        ({"name": None}, "name: "),
        ({"color_space": "Display P3"}, "color_space: is unknown here"),
    ],
)
def test_a_contract_of_schema_1_that_does_not_hold_is_refused(changes, said):
    assert said in refusal(old_metadata(color_contract(), **changes))


def test_a_checksum_is_a_sha256():
    weights = {"source": "x", "sha256": "A" * 64}
    assert "weights.sha256" in refusal(as_metadata(color_contract(), weights=weights))


def test_a_contract_is_never_changed():
    with pytest.raises(ValidationError):
        color_contract().name = "other"  # type: ignore[misc]  # as told


def test_a_contract_that_would_be_refused_can_not_be_written():
    with pytest.raises(ValidationError, match="1 probabilities for 3 labels"):
        color_contract(golden=(GoldenPattern(seed=1, probabilities=(1,)),))


# What a file allows beside its own precision


def test_a_share_of_few_images_says_less_than_the_same_of_many():
    """Figures of Wilson's interval, as tables have them."""
    assert wilson_lower_bound(20, 20) == pytest.approx(0.8389, abs=1e-4)
    assert wilson_lower_bound(2000, 2000) == pytest.approx(0.9981, abs=1e-4)
    assert wilson_lower_bound(81, 263) == pytest.approx(0.2553, abs=1e-4)
    assert wilson_lower_bound(0, 10) == 0


def test_what_is_allowed_is_read_as_it_was_written():
    contract = color_contract(allowed={"bf16": ALLOWED})
    text = contract.model_dump_json(exclude_none=True)
    read = parse_contract({METADATA_KEY: text}, file="x.onnx")
    assert read == contract
    assert read.allowed is not None
    assert read.allowed["bf16"].top1 == 0.99
    assert 0.98 < read.allowed["bf16"].lower_bound < 0.99


def test_a_file_that_allows_nothing_does_not_mention_it():
    """So that earlier releases read it."""
    assert "allowed" not in color_contract().model_dump_json(exclude_none=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "int8", "allowed": {"bf16": ALLOWED}}, "is for files of float32"),
        ({"allowed": {"int4": ALLOWED}}, "allowed"),
        ({"allowed": {"bf16": ALLOWED.model_dump() | {"same_labels": 2001}}}, "2001 labels"),
    ],
)
def test_what_can_not_be_allowed_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        color_contract(**changes)
