"""POST /v1/explain, over real HTTP with real models."""

from __future__ import annotations

import base64
import io
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from color_model import COLORS, color_contract, write_color_model
from images import COLOR_VALUES, colored, encode, photo
from PIL import Image, ImageEnhance, ImageOps
from waiting import wait_until
from wire import connect, head

from service.contract import Label
from service.inference import explanation

CAT = Path(__file__).parents[3] / "examples" / "cat.jpg"
JSON = {"Accept": "application/json"}
RAW = {"Accept": "application/octet-stream"}


@pytest.fixture
def client(serve, model_folder):
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    return serve()


def halves() -> bytes:
    """A picture whose left half is red and whose right half is blue, as the model sees it."""
    image = Image.new("RGB", (80, 40), COLOR_VALUES["red"])
    image.paste(COLOR_VALUES["blue"], (40, 0, 80, 40))
    return encode(image)


def pixels(data: bytes) -> np.ndarray:
    """Return an image's pixels as [y, x, channel]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def shown(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return pixels(response.content)


def test_the_maps_means_are_the_logits(client):
    """So they give the probabilities of a classify request."""
    data = encode(photo(300, 200))
    labels = client.post("/v1/classify", content=data).json()["results"][0]["labels"]
    means = []
    for color in COLORS:
        body = client.post(f"/v1/explain?label={color}", content=data, headers=JSON).json()
        assert np.shape(body["map"]) == (8, 8)
        means.append(np.mean(body["map"]))
    exp = np.exp(np.array(means) - max(means))
    for label in labels:
        assert label["probability"] == pytest.approx((exp / exp.sum())[label["index"]], abs=1e-5)


def test_the_built_in_models_maps_differ_from_its_logits_by_its_bias_alone(serve):
    """The bias is the same for every image, so what it adds to two labels' difference is too."""
    client = serve(models=None)
    cat = Image.open(CAT)
    offsets = []
    for image in (cat, ImageOps.mirror(cat), ImageEnhance.Brightness(cat).enhance(0.8)):
        maps = [
            client.post(f"/v1/explain?label={index}", content=encode(image), headers=JSON).json()
            for index in (30, 32)
        ]
        tabby, egyptian = (
            np.mean(each["map"]) - math.log(each["label"]["probability"]) for each in maps
        )
        offsets.append(tabby - egyptian)
    assert np.ptp(offsets) < 0.001


def test_the_best_label_is_explained_unless_another_is_named(client):
    best = client.post("/v1/explain", content=colored("blue"), headers=JSON).json()
    assert best["label"]["label"] == "blue"
    assert best["label"]["probability"] > 0.9
    for name in ("c1", "1", "green"):
        other = client.post(f"/v1/explain?label={name}", content=colored("blue"), headers=JSON)
        assert other.json()["label"]["id"] == "c1"
        assert other.headers["content-type"] == "application/json"


@pytest.mark.parametrize("label", ["Green", "3", "-1", "1.0", "x" * 5000, "%00", "1%20"])
def test_a_label_that_the_model_does_not_have_is_refused(client, label):
    response = client.post(f"/v1/explain?label={label}", content=colored())
    assert (response.status_code, response.json()["code"]) == (404, "unknown_label")
    assert "an index from 0 to 2" in response.json()["detail"]
    assert len(response.json()["detail"]) < 400


def test_an_id_comes_before_an_index_and_a_name_of_several_labels_is_refused(serve, model_folder):
    labels = [Label(id="2", label="crane"), Label(id="b", label="crane"), Label(id="c", label="b")]
    contract = color_contract(labels=labels)
    write_color_model(model_folder / "color.onnx", extra_outputs=True, labels=contract.labels)
    client = serve()

    def explained(label: str) -> int:
        response = client.post(f"/v1/explain?label={label}", content=colored(), headers=JSON)
        return response.json()["label"]["index"]

    assert [explained(label) for label in ("2", "0", "b", "c")] == [0, 0, 1, 2]
    refused = client.post("/v1/explain?label=crane", content=colored()).json()
    assert refused["code"] == "unknown_label"
    assert "use an id: 2, b" in refused["detail"]


def test_a_raw_map_tells_its_shape_its_label_and_what_it_covers(client):
    response = client.post("/v1/explain?label=red", content=halves(), headers=RAW)
    assert response.headers["x-shape"] == "8,8"
    assert response.headers["x-label-index"] == "0"
    assert response.headers["x-region"] == "20.0,0.0,60.0,40.0"
    values = np.frombuffer(response.content, "<f4").reshape(8, 8)
    as_json = client.post("/v1/explain?label=red", content=halves(), headers=JSON).json()
    assert np.array_equal(values, np.array(as_json["map"], np.float32))
    assert as_json["region"] == {"left": 20, "top": 0, "right": 60, "bottom": 40}
    assert (as_json["width"], as_json["height"]) == (80, 40)
    assert (values[:, :3] > values[:, 5:]).all(), "red is on the left"


@pytest.mark.parametrize(("label", "bright"), [("red", 25), ("blue", 55)])
def test_the_picture_glows_where_the_label_is_and_is_shaded_where_the_model_does_not_look(
    client, label, bright
):
    before = pixels(halves())
    picture = shown(client.post(f"/v1/explain?label={label}", content=halves()))
    assert picture.shape == before.shape
    bare = 80 - bright
    assert (picture[20, bare] == before[20, bare]).all(), "nothing is drawn where it is lowest"
    assert picture[20, bright, 1] > before[20, bright, 1] + 100, "bright yellow"
    for x in (5, 75):
        assert picture[20, x].sum() < before[20, x].sum()


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_the_picture_is_upright_whatever_the_model_sees(serve, model_folder, exif):
    """A camera held sideways: of a model that ignores that, the map is turned with the picture."""
    preprocessing = color_contract().preprocessing.model_copy(update={"exif": exif})
    write_color_model(model_folder / "color.onnx", extra_outputs=True, preprocessing=preprocessing)
    stored = Image.open(io.BytesIO(halves()))
    tags = Image.Exif()
    tags[0x0112] = 6  # to be turned by 90 degrees clockwise: what is left comes to the top
    data = encode(stored, "JPEG", exif=tags, quality=95, subsampling=0)
    picture = shown(serve().post("/v1/explain?label=red", content=data))
    assert picture.shape[:2] == (80, 40)
    assert picture[25, 20, 1] > 100, "red's evidence glows above"
    assert picture[55, 20, 2] > 180, "blue is below, and bare"
    assert picture[55, 20, 1] < 80


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_large_photo_is_shown_at_a_bounded_size(client, image_format):
    data = encode(photo(3000, 1500), image_format)
    assert shown(client.post("/v1/explain", content=data)).shape == (512, 1024, 3)


def test_a_strip_of_one_pixel_is_shown_too(client):
    data = encode(Image.new("RGB", (1, 5000), "red"))
    assert shown(client.post("/v1/explain", content=data)).shape == (1024, 1, 3)


def test_one_image_is_explained_at_a_time(client):
    files = [("f", ("a", colored())), ("f", ("b", colored()))]
    response = client.post("/v1/explain", files=files)
    assert (response.status_code, response.json()["code"]) == (413, "too_many_images")
    assert shown(client.post("/v1/explain", files=files[:1])).shape == (12, 20, 3)


def test_an_images_error_is_the_answer(client):
    bad = [
        client.post("/v1/explain", content=b"text"),
        client.post("/v1/explain", json={"images": [{"data": "?"}]}),
        client.post("/v1/explain", content=encode(photo(64, 48))[:-2000]),
    ]
    codes = [response.json()["code"] for response in bad]
    assert codes == ["not_an_image", "invalid_base64", "truncated_image"]


def test_a_file_without_features_is_refused_with_the_reason(serve):
    response = serve().post("/v1/explain", content=colored())
    assert (response.status_code, response.json()["code"]) == (422, "missing_output")
    detail = response.json()["detail"]
    assert "model color has no output features, classifier_weight; its file has:" in detail


def test_the_classifiers_weight_is_fetched_once(client):
    (model,) = client.app.state.runtime.repository
    run, asked = model.engine.run, []
    model.engine.run = lambda pixels, outputs: asked.append(outputs) or run(pixels, outputs)
    for _ in range(3):
        client.post("/v1/explain", content=colored())
    assert [("classifier_weight" in outputs) for outputs in asked] == [True, False, False]


def test_drawing_counts_against_the_memory_for_decoding(serve, model_folder):
    """An image that alone fits may be too large to be drawn on."""
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    client = serve(max_decoding_bytes=20_000_000)
    data = encode(photo(300, 200))
    assert client.post("/v1/explain", content=data, headers=JSON).status_code == 200
    response = client.post("/v1/explain", content=data)
    assert (response.status_code, response.json()["code"]) == (413, "image_too_large")
    assert client.app.state.runtime.explainer._policy.memory.held == 0


def test_the_time_that_it_took_is_told(client):
    as_json = client.post("/v1/explain", content=colored(), headers=JSON)
    stages = {"receive", "decode", "queue", "infer", "explain", "total"}
    assert set(as_json.json()["timings_ms"]) == stages
    assert "explain;dur=" in client.post("/v1/explain", content=colored()).headers["server-timing"]


def test_a_client_that_leaves_while_its_map_is_drawn_frees_what_it_held(client, monkeypatch):
    held, free = threading.Event(), threading.Event()

    def slow(*_: object) -> bytes:
        held.set()
        free.wait(60)
        return b""

    monkeypatch.setattr(explanation, "png", slow)
    body = colored()
    with connect(client.base_url) as connection:
        connection.sendall(head(path="/v1/explain", Content_Length=len(body)) + body)
        assert held.wait(60)
    runtime = client.app.state.runtime
    wait_until(lambda: runtime.body_bytes.held == 0)
    free.set()
    wait_until(lambda: runtime.explainer._policy.memory.held == 0)


def test_an_image_in_json_is_explained_like_the_file_itself(client):
    data = base64.b64encode(halves()).decode()
    in_json = client.post("/v1/explain", json={"images": [{"data": data}]})
    assert in_json.content == client.post("/v1/explain", content=halves()).content
