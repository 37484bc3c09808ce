"""Models make room for others, and come back when they are asked for."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import pytest
from asgi import during, until
from color_model import write_color_model
from hypothesis import given
from hypothesis import strategies as st
from images import colored, top_label

from service.errors import ModelSelectionError, NoRoomError
from service.metrics import Metrics
from service.models.eviction import Newcomer, Room
from service.models.files import ModelFile
from service.models.loader import load_repository
from service.models.model_settings import ModelSettings
from service.models.stamps import memory_of
from service.models.state import State
from service.settings import Settings

POST = "/v1/classify"


def write_models(folder: Path, *names: str) -> None:
    for name in names:
        write_color_model(folder / f"{name}.onnx")


def memory_of_one(folder: Path) -> int:
    """What a loaded colour model is taken to need."""
    repository = load_repository(
        Settings(models=folder / "color.onnx", provider="cpu", intra_op_threads=1), Metrics()
    )
    return repository.find("color").memory


def loaded(app) -> list[str]:
    return sorted(model.name for model in app.state.runtime.repository)


async def ask(client, name: str):
    return await client.post(f"{POST}?model={name}", content=colored("red"))


def test_the_least_recently_used_makes_room_and_comes_back_when_asked_for(model_folder):
    write_models(model_folder, "a", "b")

    async def work(app, client) -> None:
        assert loaded(app) == ["a", "color"], "there was no room for the third"
        for name in ("a", "color"):
            assert (await ask(client, name)).status_code == 200
        refused = await ask(client, "b")
        assert (refused.status_code, refused.json()["code"]) == (503, "model_evicted")
        assert int(refused.headers["retry-after"]) >= 1
        await until(lambda: loaded(app) == ["b", "color"])
        assert top_label(await ask(client, "b")) == "red"
        listed = (await client.get("/v1/models")).json()
        assert listed["evicted"] == [{"name": "a", "version": 1}]
        assert (await client.get("/readyz")).status_code == 200
        shown = (await client.get("/metrics")).text
        assert 'resnet_serve_model_evictions_total{model="a"} 1.0' in shown
        assert 'resnet_serve_model_ready{model="a",version="1"} 0.0' in shown
        assert 'resnet_serve_images_total{model="a",outcome="ok",version="1"} 1.0' in shown

    during(model_folder, work, default_model="color", max_models=2)


def test_looking_at_an_evicted_model_does_not_load_it(model_folder):
    write_models(model_folder, "a")

    async def work(app, client) -> None:
        for path in ("/v1/models/a", "/v2/models/a/ready", "/v2/models/a/stats") * 2:
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "model_evicted")
        assert not app.state.runtime.control._changes.lock.locked()
        assert loaded(app) == ["color"]

    during(model_folder, work, default_model="color", max_models=1)


def test_many_requests_for_an_evicted_model_load_it_once(model_folder):
    write_models(model_folder, "a", "b")

    async def work(app, client) -> None:
        opened, open_file = [], app.state.runtime.repository._loader.open

        def noted(file):
            opened.append(file.name)
            return open_file(file)

        app.state.runtime.repository._loader.open = noted
        refused = await asyncio.gather(*(ask(client, "b") for _ in range(20)))
        assert {answer.status_code for answer in refused} == {503}
        await until(lambda: "b" in loaded(app))
        assert opened == ["b"]

    during(model_folder, work, default_model="color", max_models=2)


def test_what_is_evicted_answers_what_it_has_accepted(model_folder):
    write_models(model_folder, "a")

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        color = repository.find("color")
        run, go = color.engine.run, threading.Event()

        def waiting(pixels, outputs):
            assert go.wait(60)
            return run(pixels, outputs)

        color.engine.run = waiting
        accepted = asyncio.create_task(ask(client, "color"))
        await until(lambda: color.gate.admitted == 1)
        await ask(client, "a")
        await until(lambda: color.state is State.RETIRING)
        assert (await ask(client, "color")).json()["code"] == "model_evicted"
        go.set()
        assert top_label(await accepted) == "red"
        await until(lambda: loaded(app) == ["color"])

    during(model_folder, work, default_model="color", max_models=1)


def test_pinned_models_are_never_evicted(model_folder):
    write_models(model_folder, "a", "b")
    (model_folder / "color.toml").write_text("pinned = true")

    async def work(app, client) -> None:
        await ask(client, "b")
        await until(lambda: loaded(app) == ["b", "color"])
        await ask(client, "a")
        await until(lambda: loaded(app) == ["a", "color"])

    during(model_folder, work, default_model="color", max_models=2)


def test_versions_that_are_compared_are_not_evicted(model_folder):
    for version in (1, 2):
        write_color_model(model_folder / "v" / f"{version}.onnx")

    async def work(app, client) -> None:
        assert loaded(app) == ["v", "v"], "those to compare are loaded first"
        assert (await ask(client, "color")).json()["code"] == "no_room_for_model"
        await client.delete("/v1/models/v/rollout")
        assert (await ask(client, "color")).json()["code"] == "model_evicted"
        await until(lambda: loaded(app) == ["color", "v"])

    during(
        model_folder, work, default_model="v", max_models=2, admin=True,
        rollout={"v": "2:shadow:10"},
    )  # fmt: skip


def test_an_evicted_model_that_found_no_room_is_loaded_once_there_is(model_folder):
    """The room that there was when it was asked for may be gone when its load begins."""
    for version in (1, 2):
        write_color_model(model_folder / "v" / f"{version}.onnx")

    async def work(app, client) -> None:
        await client.delete("/v1/models/v/rollout")
        async with app.state.runtime.control._changes.lock:
            assert (await ask(client, "color")).json()["code"] == "model_evicted"
            await client.post("/v1/models/v/rollout?version=2&mode=shadow&percent=10")
        await until(lambda: 'model_loads_total{model="color",outcome="failed"} 1.0' in shown(app))
        assert (await ask(client, "color")).json()["code"] == "no_room_for_model"
        await client.delete("/v1/models/v/rollout")
        assert (await ask(client, "color")).json()["code"] == "model_evicted"
        await until(lambda: loaded(app) == ["color", "v"])

    def shown(app) -> str:
        return app.state.runtime.metrics.render().decode()

    during(
        model_folder, work, default_model="v", max_models=2, admin=True,
        rollout={"v": "2:shadow:10"},
    )  # fmt: skip


def test_without_room_beside_pinned_models_a_request_is_refused(model_folder):
    write_models(model_folder, "a")
    (model_folder / "color.toml").write_text("pinned = true")

    async def work(app, client) -> None:
        for _ in range(2):
            refused = await ask(client, "a")
            assert (refused.status_code, refused.json()["code"]) == (503, "no_room_for_model")
        assert loaded(app) == ["color"]

    during(model_folder, work, default_model="color", max_models=1)


def test_pinned_models_are_loaded_first_and_must_have_room(model_folder):
    write_models(model_folder, "z")
    (model_folder / "z.toml").write_text("pinned = true")
    write_models(model_folder, "a")
    settings = Settings(
        models=model_folder, provider="cpu", intra_op_threads=1, default_model="color", max_models=2
    )
    repository = load_repository(settings, Metrics())
    assert sorted(model.name for model in repository) == ["color", "z"]
    with pytest.raises(ModelSelectionError, match=r"z.onnx: is pinned, but has no room: 1 models"):
        load_repository(settings.model_copy(update={"max_models": 1}), Metrics())


def test_a_limit_below_the_first_model_stops_the_start(model_folder):
    settings = Settings(models=model_folder, provider="cpu", max_models_bytes=1000)
    with pytest.raises(
        ModelSelectionError, match=r"color.onnx: has no room: it may take \d+ bytes"
    ):
        load_repository(settings, Metrics())


def test_memory_is_counted_before_it_is_taken(model_folder):
    write_models(model_folder, "a", "b")
    new = memory_of(ModelFile("a", 1, model_folder / "a.onnx"))
    room = 2 * memory_of_one(model_folder) + new

    async def work(app, client) -> None:
        assert loaded(app) == ["a", "b", "color"]
        for name in ("a", "b"):
            await ask(client, name)
        write_models(model_folder, "c")
        await app.state.runtime.control.load("c")
        assert loaded(app) == ["a", "b", "c"], "the one that was not asked for made room"

    during(model_folder, work, default_model="color", max_models_bytes=room)


def test_a_reload_needs_room_for_both(model_folder):
    one = memory_of_one(model_folder)

    async def work(app, client) -> None:
        write_models(model_folder, "color")
        answer = await client.post("/v1/models/color/load")
        assert (answer.status_code, answer.json()["code"]) == (422, "model_load_failed")
        assert "no other model may be evicted" in answer.json()["detail"]
        assert top_label(await ask(client, "color")) == "red"

    during(model_folder, work, admin=True, max_models_bytes=one + 1)


def test_an_evicted_model_whose_file_went_bad_says_so(model_folder):
    write_models(model_folder, "a", "b")

    async def work(app, client) -> None:
        (model_folder / "b.onnx").write_bytes(b"no model")
        assert (await ask(client, "b")).json()["code"] == "model_evicted"
        await until(app.state.runtime.control.failed)
        refused = await ask(client, "b")
        assert (refused.status_code, refused.json()["code"]) == (503, "model_broken")
        write_models(model_folder, "b")
        await app.state.runtime.control.load("b")
        assert top_label(await ask(client, "b")) == "red"

    during(model_folder, work, default_model="color", max_models=2)


def test_an_evicted_model_keeps_its_versions_and_may_be_unloaded(model_folder):
    for version in (1, 2):
        write_color_model(model_folder / "v" / f"{version}.onnx")
    (model_folder / "v.toml").write_text("versions = 1")

    async def work(app, client) -> None:
        control = app.state.runtime.control
        assert loaded(app) == ["color"]
        assert "version 1 " in (await ask(client, "v")).json()["detail"]
        await until(lambda: loaded(app) == ["v"])
        assert (await ask(client, "v")).json()["version"] == 1
        await control.unload("color")
        await control.unload("v", {"version": 2})
        assert [model.name for model in app.state.runtime.repository.models.evicted] == []
        assert (await ask(client, "color")).status_code == 404

    during(model_folder, work, default_model="color", max_models=1)


class Loaded:
    """A served model, as far as eviction looks at it."""

    def __init__(self, number: int, memory: int, last_used: int, pinned: bool) -> None:
        self.name, self.version, self.memory = f"m{number}", 1, memory
        self.last_used, self.options = last_used, ModelSettings(pinned=pinned)
        self.held = False


MODELS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9), st.booleans()), max_size=8).map(
    lambda rows: [Loaded(number, *row) for number, row in enumerate(rows)]
)


@given(MODELS, st.integers(1, 50), st.integers(0, 9), st.integers(0, 200))
def test_no_more_is_evicted_than_must_be_and_the_limits_hold(models, memory, most, room):
    limits = Room(Settings(max_models=most, max_models_bytes=room))
    new = Newcomer("new", 1, memory)
    try:
        victims = limits.make(new, models)
    except NoRoomError:
        assert limits.lack(new, [model for model in models if model.options.pinned])
        return
    left = [model for model in models if model not in victims]
    assert not limits.lack(new, left)
    assert not any(model.options.pinned for model in victims)
    if victims:
        assert limits.lack(new, [*left, victims[-1]]), "the last one need not have gone"
        kept = [model.last_used for model in left if not model.options.pinned]
        assert max(model.last_used for model in victims) <= min(kept, default=10)


def test_an_evicted_model_leaves_nothing_behind_but_its_counters(model_folder):
    """Its explanations' weight neither."""
    write_color_model(model_folder / "color.onnx", extra_outputs=True)

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        (model,) = repository
        answer = await client.post("/v1/explain", content=colored("red"))
        assert (answer.status_code, model.classifier_weight is not None) == (200, True)
        await repository.evict(model, timeout_s=10)
        assert model.classifier_weight is None
        gone = weakref.ref(model)
        del model

        def is_collected() -> bool:
            gc.collect()
            return gone() is None

        await until(is_collected)  # a thread may only be about to let go of it
        shown = (await client.get("/metrics")).text
        labels = 'model="color",version="1"'
        for gauge in ("queue_length", "model_ready", "model_broken"):
            assert f"resnet_serve_{gauge}{{{labels}}} 0.0" in shown
        assert 'resnet_serve_images_total{model="color",outcome="ok",version="1"} 1.0' in shown

    during(model_folder, work)
