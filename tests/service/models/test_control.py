"""Models that are loaded, reloaded, unloaded and listed on demand, while others answer."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from asgi import during, until
from calibrated import calibration, write_calibrated
from color_model import color_contract, write_color_model
from images import colored, top_label

from service.contract import GoldenPattern, Label
from service.errors import InvalidParameterError, ModelLoadError, UnknownModelError
from service.models.control import Control
from service.models.index import IndexEntry

POST = "/v1/classify"
OTHER = tuple(Label(id=f"d{i}", label=label) for i, label in enumerate("xyz"))


def replace_model(path: Path, **changes) -> Path:
    """Write a model beside its path and rename it, as careful programs do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_color_model(path.with_name(".new"), **changes).replace(path)
    return path


def control_of(app) -> Control:
    return app.state.runtime.control


def shown(entries: list[IndexEntry]) -> list[tuple[str, int, str, str]]:
    return [(each.name, each.version, each.state.value, each.reason) for each in entries]


def test_a_new_file_is_served_once_it_is_loaded(model_folder):
    async def work(app, client) -> None:
        write_color_model(model_folder / "new.onnx", labels=OTHER)
        assert shown(await control_of(app).index()) == [
            ("color", 1, "READY", ""),
            ("new", 1, "UNAVAILABLE", "not loaded"),
        ]
        url = f"{POST}?model=new"
        assert (await client.post(url, content=colored("red"))).status_code == 404
        (model,) = await control_of(app).load("new")
        assert (model.name, model.version) == ("new", 1)
        assert top_label(await client.post(url, content=colored("red"))) == "x"
        assert shown(await control_of(app).index(ready_only=True)) == [
            ("color", 1, "READY", ""),
            ("new", 1, "READY", ""),
        ]

    during(model_folder, work)


def test_only_a_file_that_has_changed_is_loaded_again(model_folder):
    async def work(app, client) -> None:
        (before,) = app.state.runtime.repository
        assert await control_of(app).load("color") == [before]
        replace_model(model_folder / "color.onnx", labels=OTHER)
        (after,) = await control_of(app).load("color")
        assert after is not before
        assert top_label(await client.post(POST, content=colored("red"))) == "x"
        assert await control_of(app).load("color") == [after]

    during(model_folder, work)


def test_versions_follow_their_files(model_folder):
    """New ones are served, and those whose files are gone are not any more."""

    async def work(app, client) -> None:
        for version in (1, 2, 3):
            write_color_model(model_folder / "new" / f"{version}.onnx")
        await control_of(app).load("new")
        (model_folder / "new" / "1.onnx").unlink()
        write_color_model(model_folder / "new" / "4.onnx", labels=OTHER)
        models = await control_of(app).load("new")
        assert [model.version for model in models] == [2, 3, 4]
        url = f"{POST}?model=new"
        assert top_label(await client.post(url, content=colored("red"))) == "x"
        assert (await client.post(f"{url}&version=1", content=colored("red"))).status_code == 404

    during(model_folder, work, default_model="color")


def test_who_names_no_model_is_told_that_the_default_one_is_gone(model_folder):
    async def work(app, client) -> None:
        write_color_model(model_folder / "new.onnx")
        said = "there is no model color, which answers if none is named; available: "
        await control_of(app).unload("color")
        answer = await client.post(POST, content=colored("red"))
        assert (answer.status_code, answer.json()["detail"]) == (404, f"{said}none")
        await control_of(app).load("new")
        answer = await client.post(POST, content=colored("red"))
        assert (answer.status_code, answer.json()["detail"]) == (404, f"{said}new")

    during(model_folder, work)


def test_the_apis_description_follows_the_models(model_folder):
    async def described(client) -> set[str]:
        answer = await client.get("/openapi.json")
        parameters = answer.json()["paths"][POST]["post"]["parameters"]
        return {each["name"] for each in parameters} & {"threshold", "coverage", "abstain"}

    async def work(app, client) -> None:
        assert await described(client) == set()
        write_calibrated(model_folder / "sure.onnx", json.dumps(calibration()))
        await control_of(app).load("sure")
        assert await described(client) == {"coverage", "abstain"}
        await control_of(app).unload("sure")
        assert await described(client) == set()
        await control_of(app).unload("color")
        assert await described(client) == set(), "no model answers any"

    during(model_folder, work)


def test_a_version_alone_is_loaded_and_unloaded(model_folder):
    async def work(app, client) -> None:
        control = control_of(app)
        for version in (1, 2):
            write_color_model(model_folder / "new" / f"{version}.onnx")
        await control.load("new", {"version": 2})
        assert shown(await control.index())[1:] == [
            ("new", 1, "UNAVAILABLE", "not loaded"),
            ("new", 2, "READY", ""),
        ]
        await control.load("new", {"version": 1})
        await control.unload("new", {"version": 2, "unload_dependents": True})
        assert shown(await control.index())[1:] == [
            ("new", 1, "READY", ""),
            ("new", 2, "UNAVAILABLE", "unloaded"),
        ]
        with pytest.raises(UnknownModelError, match="no file of version 3; available: 1, 2"):
            await control.load("new", {"version": 3})

    during(model_folder, work, default_model="color")


def disagreeing(path: Path) -> Path:
    contract = color_contract(golden=(GoldenPattern(seed=1, probabilities=(0.1, 0.2, 0.7)),))
    return replace_model(path, contract=contract)


def half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("spoil", "said"), [(half, "ONNX Runtime can't load it"), (disagreeing, "golden pattern")]
)
def test_a_bad_file_leaves_the_old_one_serving_and_is_told(model_folder, spoil, said):
    async def work(app, client) -> None:
        (old,) = app.state.runtime.repository
        spoil(model_folder / "color.onnx")
        with pytest.raises(ModelLoadError, match=said) as caught:
            await control_of(app).load("color")
        assert str(model_folder) not in str(caught.value), "clients need not know where files lie"
        assert list(app.state.runtime.repository) == [old]
        assert top_label(await client.post(POST, content=colored("red"))) == "red"
        (failed,) = control_of(app).failed()
        assert (failed.name, failed.version) == ("color", 1)
        assert said in failed.reason
        replace_model(model_folder / "color.onnx", labels=OTHER)
        await control_of(app).load("color")
        assert control_of(app).failed() == []
        assert top_label(await client.post(POST, content=colored("red"))) == "x"

    during(model_folder, work)


def test_the_versions_beside_a_bad_one_are_loaded(model_folder):
    async def work(app, client) -> None:
        for version in (1, 2, 3):
            write_color_model(model_folder / "new" / f"{version}.onnx")
        half(model_folder / "new" / "2.onnx")
        with pytest.raises(ModelLoadError, match="model new version 2: "):
            await control_of(app).load("new")
        assert [model.version for model in app.state.runtime.repository] == [1, 1, 3]

    during(model_folder, work, default_model="color")


def test_an_unloaded_model_is_not_found_until_it_is_loaded_again(model_folder):
    async def work(app, client) -> None:
        await control_of(app).unload("color")
        answer = await client.post(POST, content=colored("red"))
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
        assert shown(await control_of(app).index()) == [("color", 1, "UNAVAILABLE", "unloaded")]
        assert (await client.get("/readyz")).status_code == 200, "it was meant"
        await control_of(app).unload("color")
        await control_of(app).load("color")
        assert top_label(await client.post(POST, content=colored("red"))) == "red"

    during(model_folder, work)


@pytest.mark.parametrize("call", ["load", "unload"])
def test_what_is_asked_for_must_be_known(model_folder, call):
    async def work(app, client) -> None:
        change = getattr(control_of(app), call)
        for name in ("nope", "../color", "x" * 5000):
            with pytest.raises(UnknownModelError) as caught:
                await change(name)
            assert len(str(caught.value)) < 300
        with pytest.raises(InvalidParameterError, match="no parameter 'config'; allowed: version"):
            await change("color", {"config": "{}"})
        for version in ("1", True, 1.0):
            with pytest.raises(InvalidParameterError, match="version must be a whole number"):
                await change("color", {"version": version})

    during(model_folder, work)


def test_loads_wait_for_each_other_and_a_cancelled_one_leaves_nothing(model_folder):
    async def work(app, client) -> None:
        repository, control = app.state.runtime.repository, control_of(app)
        for name in ("a", "b"):
            write_color_model(model_folder / f"{name}.onnx", labels=OTHER)
        begun, go, opened = threading.Event(), threading.Event(), []
        open_file = repository._loader.open

        def waiting(file):
            opened.append(file.name)
            begun.set()
            assert go.wait(60)
            return open_file(file)

        repository._loader.open = waiting
        first = asyncio.create_task(control.load("a"))
        second = asyncio.create_task(control.load("b"))
        assert await asyncio.to_thread(begun.wait, 60)
        assert shown(await control.index())[0] == ("a", 1, "LOADING", "being loaded")
        assert top_label(await client.post(POST, content=colored("red"))) == "red"
        assert opened == ["a"]
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        (model,) = await second
        assert model.name == "b"
        assert [model.name for model in repository] == ["color", "b"]
        assert shown(await control.index())[0] == ("a", 1, "UNAVAILABLE", "not loaded")

    during(model_folder, work, default_model="color")


def test_a_file_that_changes_while_it_is_read_is_not_served(model_folder):
    async def work(app, client) -> None:
        opener = app.state.runtime.repository._loader.opener
        open_file, path = opener.open, model_folder / "new.onnx"

        def changing(*arguments, **options):
            engine = open_file(*arguments, **options)
            replace_model(path)
            return engine

        write_color_model(path)
        opener.open = changing
        with pytest.raises(ModelLoadError, match="changed while it was being read"):
            await control_of(app).load("new")
        opener.open = open_file
        await control_of(app).load("new")

    during(model_folder, work)


def test_a_folder_that_is_gone_is_said_and_changes_nothing(model_folder):
    async def work(app, client) -> None:
        model_folder.rename(model_folder.with_name("elsewhere"))
        with pytest.raises(ModelLoadError, match="can't be read"):
            await control_of(app).load("color")
        assert shown(await control_of(app).index()) == [("color", 1, "READY", "")]
        assert top_label(await client.post(POST, content=colored("red"))) == "red"

    during(model_folder, work)


def test_over_http_models_are_loaded_and_unloaded_by_who_may(model_folder):
    async def work(app, client) -> None:
        write_color_model(model_folder / "new.onnx", labels=OTHER)
        loaded = await client.post("/v1/models/new/load?version=1")
        entry = {"name": "new", "version": 1, "state": "READY", "reason": ""}
        assert (loaded.status_code, loaded.json()) == (200, {"models": [entry]})
        unloaded = await client.post("/v1/models/new/unload")
        entry |= {"state": "UNAVAILABLE", "reason": "unloaded"}
        assert (unloaded.status_code, unloaded.json()) == (200, {"models": [entry]})
        half(model_folder / "new.onnx")
        for url, status, code in (
            ("/v1/models/new/load", 422, "model_load_failed"),
            ("/v1/models/nope/load", 404, "unknown_model"),
            ("/v1/models/nope/unload", 404, "unknown_model"),
            ("/v1/models/new/load?a=b", 400, "invalid_parameter"),
            ("/v1/models/new/load?version=x", 400, "invalid_parameter"),
        ):
            answer = await client.post(url)
            assert (answer.status_code, answer.json()["code"]) == (status, code), url

    during(model_folder, work, admin=True)


@pytest.mark.parametrize("call", ["load", "unload"])
def test_without_the_setting_nobody_may(model_folder, call):
    async def work(app, client) -> None:
        answer = await client.post(f"/v1/models/color/{call}")
        assert (answer.status_code, answer.json()["code"]) == (403, "admin_off")
        assert (await client.get(f"/v1/models/color/{call}")).status_code == 405
        await until(lambda: len(list(app.state.runtime.repository)) == 1)

    during(model_folder, work)


def test_versions_answer_as_the_settings_say(model_folder):
    """Requests that name one get it, and a request that is sent again the same one."""
    for version in (1, 2, 3):
        labels = tuple(Label(id=f"{version}{i}", label=f"{version}") for i in range(3))
        write_color_model(model_folder / "v" / f"{version}.onnx", labels=labels)

    async def work(app, client) -> None:
        url, ids = f"{POST}?model=v", [f"id-{number}" for number in range(60)]

        async def answer(request_id: str, more: str = "") -> int:
            headers = {"X-Request-Id": request_id}
            answer = await client.post(url + more, content=colored("red"), headers=headers)
            assert top_label(answer) == str(answer.json()["version"])
            return answer.json()["version"]

        first = [await answer(each) for each in ids]
        assert [await answer(each) for each in ids] == first
        assert set(first) == {1, 2}
        assert {await answer(each, "&version=3") for each in ids} == {3}
        listed = (await client.get("/v1/models")).json()["models"]
        shares = {each["version"]: each["share"] for each in listed if each["name"] == "v"}
        assert shares == {1: 0.5, 2: 0.5, 3: 0}
        await control_of(app).unload("v", {"version": 2})
        assert {await answer(each) for each in ids} == {1}
        await control_of(app).unload("v", {"version": 1})
        refused = await client.post(url, content=colored("red"))
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
        assert "answered by version 1:50,2:50, which is not there" in refused.json()["detail"]

    during(model_folder, work, default_model="color", model_versions={"v": "1:50,2:50"})
