"""Models that come and go while others answer: over HTTP's application, with the real engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asgi import during, until
from color_model import write_color_model
from engines import HeldEngine
from images import colored, top_label
from structlog.testing import capture_logs

from service.contract import GoldenPattern, Label
from service.errors import ModelFileError, UnknownModelError
from service.models.files import ModelFile
from service.models.state import State

POST = "/v1/classify"
OTHER_LABELS = tuple(Label(id=f"d{i}", label=label) for i, label in enumerate("xyz"))


def color_file(folder: Path, name: str, version: int = 1, **changes) -> ModelFile:
    """A file outside of the model folder, whose labels are x, y and z."""
    path = folder / "new" / name / f"{version}.onnx"
    return ModelFile(name, version, write_color_model(path, labels=OTHER_LABELS, **changes))


async def wait_for(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


class Held:
    """A model whose batches wait for the test."""

    def __init__(self, model) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        run = model.engine.run

        def waiting(pixels, outputs):
            self.begun.set()
            assert self.go.wait(60)
            return run(pixels, outputs)

        model.engine.run = waiting


async def metrics_of(client) -> str:
    return (await client.get("/metrics")).text


def test_a_model_is_installed_beside_one_that_answers(tmp_path, model_folder):
    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        model = await repository.install(color_file(tmp_path, "new"), retire_s=10)
        assert model.state is State.READY
        answer = await client.post(f"{POST}?model=new", content=colored("green"))
        assert (answer.status_code, top_label(answer)) == (200, "y")
        assert top_label(await client.post(POST, content=colored("green"))) == "green"
        listed = (await client.get("/v1/models")).json()["models"]
        assert {entry["name"]: entry["default"] for entry in listed} == {
            "color": True,
            "new": False,
        }
        shown = await metrics_of(client)
        assert 'resnet_serve_model_ready{model="new",version="1"} 1.0' in shown
        assert 'resnet_serve_images_total{model="new",outcome="ok",version="1"} 1.0' in shown

    during(model_folder, work)


def test_a_newer_version_answers_once_it_is_proved(tmp_path, model_folder):
    """While it is, the older one does, and afterwards who names its version."""

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        opened, go = threading.Event(), threading.Event()
        open_file = repository._loader.open

        def waiting(file):
            opened.set()
            assert go.wait(60)
            return open_file(file)

        repository._loader.open = waiting
        installing = asyncio.create_task(
            repository.install(color_file(tmp_path, "color", 2), retire_s=10)
        )
        await wait_for(opened)
        assert top_label(await client.post(POST, content=colored("red"))) == "red"
        assert (await client.get("/readyz")).status_code == 200
        go.set()
        await installing
        assert top_label(await client.post(POST, content=colored("red"))) == "x"
        old = await client.post(f"{POST}?version=1&model=color", content=colored("red"))
        assert top_label(old) == "red"

    during(model_folder, work)


def test_what_is_replaced_answers_what_it_has_accepted(tmp_path, model_folder):
    """An identical image that comes later is not answered by its computation."""

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        (old,) = repository
        held, engine = Held(old), old.engine
        accepted = asyncio.create_task(client.post(POST, content=colored("red")))
        await wait_for(held.begun)
        new = color_file(tmp_path, "color", 1, architecture="another")
        installing = asyncio.create_task(repository.install(new, retire_s=60))
        await until(lambda: repository.find("color") is not old)
        later = asyncio.create_task(client.post(POST, content=colored("red")))
        await until(lambda: repository.find("color").gate.admitted == 1)
        assert old.state is State.RETIRING
        held.go.set()
        assert top_label(await accepted) == "red"
        assert top_label(await later) == "x"
        await installing
        assert old.state is State.RETIRED
        assert not hasattr(engine, "_session"), "it is closed"
        shown = await metrics_of(client)
        assert 'architecture="another"' in shown
        assert shown.count("resnet_serve_model_info{") == 1
        assert 'resnet_serve_images_total{model="color",outcome="ok",version="1"} 2.0' in shown

    during(model_folder, work, runners=2)


def test_a_retired_model_answers_what_it_has_accepted_and_leaves_nothing(tmp_path, model_folder):
    write_color_model(model_folder / "other.onnx", name="other")

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        other = repository.find("other")
        held, device = Held(other), repository._device
        url = f"{POST}?model=other"
        accepted = asyncio.create_task(client.post(url, content=colored("red")))
        await wait_for(held.begun)
        waiting = asyncio.create_task(client.post(url, content=colored("green")))
        await until(lambda: other.gate.admitted == 2)
        retiring = asyncio.create_task(repository.retire("other", 1, timeout_s=60))
        await until(lambda: other.state is State.RETIRING)
        refused = await client.post(url, content=colored("blue"))
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
        assert (await client.get("/readyz")).status_code == 200
        assert not retiring.done()
        held.go.set()
        assert [top_label(await each) for each in (accepted, waiting)] == ["red", "green"]
        await retiring
        assert other.state is State.RETIRED
        assert 'model="other"' not in await metrics_of(client)
        assert device.gates == [repository.find("color").gate]
        assert top_label(await client.post(POST, content=colored("red"))) == "red"
        with pytest.raises(UnknownModelError):
            await repository.retire("other", 1, timeout_s=60)

    during(model_folder, work, default_model="color")


class Upload:
    """A request whose body ends when the test says so."""

    def __init__(self, client, url: str, image: bytes) -> None:
        self._image = image
        self._end = asyncio.Event()
        self._begun = asyncio.Event()
        self.answer = asyncio.create_task(client.post(url, content=self._body()))

    async def _body(self) -> AsyncIterator[bytes]:
        yield self._image[:10]
        self._begun.set()
        await self._end.wait()
        yield self._image[10:]

    async def begun(self) -> None:
        await self._begun.wait()

    def finish(self) -> None:
        self._end.set()


@pytest.mark.parametrize("url", [POST, "/v1/embed", "/v1/explain", "/predictions/color"])
def test_a_request_whose_body_is_still_arriving_is_answered_by_the_model_that_it_has_found(
    url, tmp_path, model_folder
):
    write_color_model(model_folder / "color.onnx", extra_outputs=True)

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        (old,) = repository
        upload = Upload(client, url, colored("red"))
        await upload.begun()
        installing = asyncio.create_task(
            repository.install(color_file(tmp_path, "color", 1), retire_s=60)
        )
        await until(lambda: old.state is State.RETIRING)
        assert repository.find("color") is not old
        upload.finish()
        assert (await upload.answer).status_code == 200
        await installing
        assert (old.state, old.totals.succeeded.count) == (State.RETIRED, 1)

    during(model_folder, work)


def test_a_body_that_does_not_arrive_holds_a_retired_model_no_longer_than_its_time(model_folder):
    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        (model,) = repository
        upload = Upload(client, POST, colored("red"))
        await upload.begun()
        await repository.retire("color", 1, timeout_s=0.01)
        assert model.state is State.RETIRED
        upload.finish()
        answer = await upload.answer
        assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")

    during(model_folder, work)


def test_what_a_retired_model_does_not_answer_in_its_time_is_a_503(model_folder):
    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        (model,) = repository
        held = Held(model)
        runs = asyncio.create_task(client.post(POST, content=colored("red")))
        await wait_for(held.begun)
        waits = asyncio.create_task(client.post(POST, content=colored("green")))
        await until(lambda: model.gate.admitted == 2)
        await repository.retire("color", 1, timeout_s=0.01)
        answer = await waits
        assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
        held.go.set()
        assert top_label(await runs) == "red", "what runs can't be stopped, and is answered"

    during(model_folder, work)


def test_a_model_is_closed_even_if_its_retirement_is_cancelled(model_folder):
    """Requests don't find it any more, so nobody else would close it."""

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        (model,) = repository
        held, device = Held(model), repository._device
        runs = asyncio.create_task(client.post(POST, content=colored("red")))
        await wait_for(held.begun)
        retiring = asyncio.create_task(repository.retire("color", 1, timeout_s=60))
        await until(lambda: model.state is State.RETIRING)
        retiring.cancel()
        held.go.set()
        with pytest.raises(asyncio.CancelledError):
            await retiring
        assert top_label(await runs) == "red"
        assert (model.state, device.gates) == (State.RETIRED, [])
        assert not hasattr(model.engine, "_session"), "it is closed"
        assert 'model="color"' not in await metrics_of(client)

    during(model_folder, work)


@pytest.mark.parametrize("broken", ["file", "golden"])
def test_a_file_that_can_not_be_served_changes_nothing(tmp_path, model_folder, broken):
    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        device, before = repository._device, repository.models
        if broken == "file":
            file = color_file(tmp_path, "new")
            file.path.write_bytes(b"no model")
        else:
            golden = (GoldenPattern(seed=1, probabilities=(0.2, 0.3, 0.5)),)
            file = color_file(tmp_path, "new", golden=golden)
        with capture_logs(), pytest.raises(ModelFileError, match=r"1\.onnx: "):
            await repository.install(file, retire_s=10)
        assert repository.models is before
        assert len(device.gates) == 1
        assert 'model="new"' not in await metrics_of(client)
        assert top_label(await client.post(POST, content=colored("red"))) == "red"
        # And once it is mended, it is served.
        await repository.install(color_file(tmp_path, "new"), retire_s=10)
        answer = await client.post(f"{POST}?model=new", content=colored("red"))
        assert top_label(answer) == "x"

    during(model_folder, work)


def test_an_installation_that_is_given_up_leaves_no_engine_open(tmp_path, model_folder):
    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        loader, engine = repository._loader, HeldEngine()
        open_file = loader.open

        def opened(file):
            loaded = open_file(file)
            loaded.engine.prepare = lambda sizes: (engine.open.clear(), engine.run([], ()))
            close = loaded.engine.close
            loaded.engine.close = lambda: (close(), engine.close())
            return loaded

        loader.open = opened
        installing = asyncio.create_task(
            repository.install(color_file(tmp_path, "new"), retire_s=10)
        )
        assert await asyncio.to_thread(engine.entered.acquire, timeout=60)
        installing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await installing
        assert [model.name for model in repository] == ["color"]
        assert len(repository._device.gates) == 1
        engine.open.set()
        await until(lambda: engine.closed)
        assert 'model="new"' not in await metrics_of(client)

    during(model_folder, work)


def test_a_broken_file_is_replaced_and_a_model_retired_without_a_restart(tmp_path, model_folder):
    """What could not be loaded at the start answers once a good file is installed for it."""
    (model_folder / "bad.onnx").write_bytes(b"no model")

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        assert (await client.post(f"{POST}?model=bad", content=colored())).status_code == 503
        await repository.install(color_file(tmp_path, "bad"), retire_s=10)
        assert repository.models.broken() == []
        answer = await client.post(f"{POST}?model=bad", content=colored("red"))
        assert top_label(answer) == "x"
        shown = await metrics_of(client)
        assert 'resnet_serve_model_broken{model="bad",version="1"} 0.0' in shown

    with capture_logs():
        during(model_folder, work, default_model="color")


def test_models_that_are_unloaded_before_or_during_their_warm_up_are_not_reported(model_folder):
    write_color_model(model_folder / "late.onnx")

    async def work(app, client) -> None:
        repository = app.state.runtime.repository
        models = [await asyncio.to_thread(opened, repository, name) for name in ("color", "late")]
        first, second = models
        held = Held(first)
        warming = asyncio.create_task(
            asyncio.to_thread(lambda: [model.warm_up(threading.Event()) for model in models])
        )
        await wait_for(held.begun)
        for model in models:
            await model.retire(10)
        with capture_logs() as logs:
            held.go.set()
            await warming
        assert logs == []
        assert [first.state, second.state] == [State.RETIRED, State.RETIRED]

    def opened(repository, name: str):
        loaded = repository._loader.open(ModelFile(name, 1, model_folder / f"{name}.onnx"))
        model = repository._loader.serve(loaded)
        model.start(repository._pool, repository._concurrency)
        return model

    during(model_folder, work, default_model="color")
