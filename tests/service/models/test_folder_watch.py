"""A watched folder: what changes in it is followed, however it changes; nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from asgi import during
from color_model import color_contract, write_color_model
from images import colored, top_label
from structlog.testing import capture_logs

from service.contract import GoldenPattern, Label
from service.errors import SettingsError
from service.settings import load_settings

POST = "/v1/classify"


class Watched:
    """A served folder, looked at by the test."""

    def __init__(self, app, client, folder: Path) -> None:
        self.runtime, self.client, self.folder = app.state.runtime, client, folder

    async def look(self, times: int = 1) -> list[str]:
        """Look, and return the events that were logged; most need two looks."""
        with capture_logs() as logs:
            for _ in range(times):
                await self.runtime.folder_watch.look()
        return [entry["event"] for entry in logs]

    def served(self) -> list[tuple[str, int]]:
        return sorted((model.name, model.version) for model in self.runtime.repository)

    async def label(self, query: str = "") -> str:
        answer = await self.client.post(POST + query, content=colored("red"))
        assert answer.status_code == 200, answer.text
        return top_label(answer)

    async def health(self) -> dict:
        return (await self.client.get("/health")).json()


def watching(folder: Path, work, **settings) -> None:
    async def run(app, client) -> None:
        watched = Watched(app, client, folder)
        assert await watched.look() == []  # the first look has nothing to compare with
        await work(watched)

    during(folder, run, watch=True, **({"default_model": "color"} | settings))


def labelled(path: Path, label: str, **changes) -> Path:
    """Write a model that calls everything `label`; by rename, as careful programs do."""
    labels = tuple(Label(id=f"{label}{i}", label=label) for i in range(3))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = write_color_model(path.with_name(".new"), labels=labels, **changes)
    new.replace(path)
    return path


def test_a_new_file_a_changed_one_and_a_gone_one_are_followed(model_folder):
    async def work(watched: Watched) -> None:
        labelled(model_folder / "new" / "1.onnx", "a")
        labelled(model_folder / "new" / "2.onnx", "b")
        await watched.look(2)
        assert watched.served() == [("color", 1), ("new", 1), ("new", 2)]
        assert await watched.label("?model=new") == "b"
        labelled(model_folder / "new" / "2.onnx", "c")
        await watched.look(2)
        assert await watched.label("?model=new") == "c"
        (model_folder / "new" / "2.onnx").unlink()
        await watched.look(2)
        assert watched.served() == [("color", 1), ("new", 1)]
        assert await watched.label("?model=new") == "a"
        assert await watched.look(3) == [], "nothing changes any more"

    watching(model_folder, work)


def test_a_file_that_grows_is_left_alone_until_it_is_whole(model_folder):
    """Copied in its place, and without a rename."""

    async def work(watched: Watched) -> None:
        whole = write_color_model(model_folder.parent / "whole.onnx").read_bytes()
        path = model_folder / "new.onnx"
        for size in range(100, len(whole), len(whole) // 5):
            path.write_bytes(whole[:size])
            assert await watched.look() == []
        path.write_bytes(whole)
        assert await watched.look() == []
        assert "model_installed" in await watched.look()
        assert watched.served() == [("color", 1), ("new", 1)]

    watching(model_folder, work)


def half(path: Path) -> None:
    labelled(path, "bad")
    path.write_bytes(path.read_bytes()[:300])


def disagreeing(path: Path) -> None:
    golden = (GoldenPattern(seed=1, probabilities=(0.1, 0.2, 0.7)),)
    write_color_model(path.with_name(".new"), color_contract(golden=golden)).replace(path)


def with_wrong_settings(path: Path) -> None:
    labelled(path, "bad")
    path.with_suffix(".toml").write_text("top = 1")


@pytest.mark.parametrize("spoil", [half, disagreeing, with_wrong_settings])
def test_a_bad_file_leaves_the_old_one_serving_and_is_reported_once(model_folder, spoil):
    async def work(watched: Watched) -> None:
        spoil(model_folder / "color.onnx")
        assert (await watched.look(2)).count("model_load_failed") == 1
        assert await watched.look(3) == []
        assert await watched.label() == "red"
        health = await watched.health()
        assert health["state"] == "ready"
        (failed,) = health["failed_loads"]
        assert (failed["name"], failed["version"]) == ("color", 1)
        assert str(model_folder) not in failed["reason"]
        shown = (await watched.client.get("/metrics")).text
        assert 'resnet_serve_model_loads_total{model="color",outcome="failed"} 1.0' in shown
        (model_folder / "color.toml").unlink(missing_ok=True)
        labelled(model_folder / "color.onnx", "mended")
        await watched.look(2)
        assert await watched.label() == "mended"
        assert (await watched.health())["failed_loads"] == []

    watching(model_folder, work)


def test_a_bad_file_that_is_taken_back_is_not_reported_any_more(model_folder):
    async def work(watched: Watched) -> None:
        path, kept = model_folder / "color.onnx", model_folder / "kept"
        path.rename(kept)
        half(path)
        await watched.look(2)
        assert len((await watched.health())["failed_loads"]) == 1
        kept.replace(path)
        assert await watched.look(2) == [], "it is the file that is served"
        assert (await watched.health())["failed_loads"] == []

    watching(model_folder, work)


def test_a_bad_new_version_leaves_the_old_one_answering(model_folder):
    labelled(model_folder / "v" / "1.onnx", "one")

    async def work(watched: Watched) -> None:
        half(model_folder / "v" / "2.onnx")
        assert "model_load_failed" in await watched.look(2)
        assert await watched.label("?model=v") == "one"
        (model_folder / "v" / "2.onnx").unlink()
        await watched.look(2)
        assert (await watched.health())["failed_loads"] == []

    watching(model_folder, work)


def test_a_file_that_was_broken_at_the_start_is_tried_again_only_once_it_changes(model_folder):
    (model_folder / "bad.onnx").write_bytes(b"no model")

    async def work(watched: Watched) -> None:
        assert await watched.look(3) == []
        labelled(model_folder / "bad.onnx", "good")
        await watched.look(2)
        assert await watched.label("?model=bad") == "good"
        assert (await watched.health())["broken"] == []

    watching(model_folder, work)


def test_a_file_that_was_broken_at_the_start_is_forgotten_once_it_is_gone(model_folder):
    (model_folder / "bad.onnx").write_bytes(b"no model")

    async def work(watched: Watched) -> None:
        (model_folder / "bad.onnx").unlink()
        await watched.look(2)
        assert (await watched.health())["broken"] == []
        assert 'model="bad"' not in (await watched.client.get("/metrics")).text

    watching(model_folder, work)


def test_links_that_are_replaced_are_followed(model_folder):
    """As Kubernetes mounts volumes: files link to ..data/FILE, and ..data to a new folder."""

    def mount(folder: str, label: str) -> None:
        labelled(model_folder / folder / "linked.onnx", label)
        new = model_folder / "..new"
        new.symlink_to(folder)
        new.replace(model_folder / "..data")

    mount("..2026_01", "before")
    (model_folder / "linked.onnx").symlink_to("..data/linked.onnx")

    async def work(watched: Watched) -> None:
        assert watched.served() == [("color", 1), ("linked", 1)]
        mount("..2026_02", "after")
        await watched.look(2)
        assert await watched.label("?model=linked") == "after"
        assert await watched.look(2) == []

    watching(model_folder, work)


def test_a_renamed_model_is_served_under_its_new_name(model_folder):
    labelled(model_folder / "old.onnx", "same")

    async def work(watched: Watched) -> None:
        (model_folder / "old.onnx").rename(model_folder / "new.onnx")
        await watched.look(2)
        assert watched.served() == [("color", 1), ("new", 1)]
        (model_folder / "new.onnx").rename(model_folder / "old.onnx")
        await watched.look(2)
        assert watched.served() == [("color", 1), ("old", 1)], "though the file is the same"

    watching(model_folder, work)


def vanish(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def come_back(folder: Path) -> None:
    folder.with_name("elsewhere").rename(folder)


def unmount(folder: Path) -> None:
    """Leave an empty folder, as an unmounted volume does."""
    vanish(folder)
    folder.mkdir()


def mount_again(folder: Path) -> None:
    folder.rmdir()
    come_back(folder)


@pytest.mark.parametrize(
    ("go", "come", "said"),
    [(vanish, come_back, "can't be read"), (unmount, mount_again, "no model files any more")],
)
def test_a_folder_that_vanishes_changes_nothing_and_is_reported_once(model_folder, go, come, said):
    async def work(watched: Watched) -> None:
        go(model_folder)
        assert await watched.look(3) == ["watch_trouble"]
        assert await watched.label() == "red"
        health = await watched.health()
        assert health["state"] == "ready"
        assert said in health["watch"]["trouble"]
        assert str(model_folder) not in health["watch"]["trouble"]
        assert "resnet_serve_watch_failing 1.0" in (await watched.client.get("/metrics")).text
        come(model_folder)
        assert await watched.look(3) == ["watch_trouble_over"]
        assert (await watched.health())["watch"] == {"trouble": ""}
        assert "resnet_serve_watch_failing 0.0" in (await watched.client.get("/metrics")).text
        labelled(model_folder / "color.onnx", "new")
        await watched.look(2)
        assert await watched.label() == "new"

    watching(model_folder, work)


def test_what_a_folder_that_cant_be_read_hides_stays_served(model_folder, monkeypatch):
    """Permission is denied by a patch, since tests may run as root, whom nothing is denied."""
    labelled(model_folder / "v" / "1.onnx", "one")
    iterdir = Path.iterdir

    def denied(path: Path):
        if path.name == "v":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    async def work(watched: Watched) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", denied)
            assert await watched.look(3) == ["model_file_passed_over"]
            assert watched.served() == [("color", 1), ("v", 1)]
        assert await watched.look(3) == []

    watching(model_folder, work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cant_be_read_is_reported_once(model_folder):
    async def work(watched: Watched) -> None:
        labelled(model_folder / "new.onnx", "new").chmod(0)
        assert (await watched.look(4)).count("model_load_failed") == 1

    watching(model_folder, work)


def test_what_was_unloaded_stays_so_until_its_file_changes(model_folder):
    labelled(model_folder / "other.onnx", "before")

    async def work(watched: Watched) -> None:
        await watched.runtime.control.unload("other")
        assert await watched.look(3) == []
        assert watched.served() == [("color", 1)]
        labelled(model_folder / "other.onnx", "after")
        await watched.look(2)
        assert await watched.label("?model=other") == "after"

    watching(model_folder, work)


def test_what_is_broken_and_unloaded_is_not_tried_again_either(model_folder):
    (model_folder / "bad.onnx").write_bytes(b"no model")

    async def work(watched: Watched) -> None:
        await watched.runtime.control.unload("bad")
        assert (await watched.health())["broken"] == []
        assert await watched.look(3) == []
        labelled(model_folder / "bad.onnx", "good")
        await watched.look(2)
        assert await watched.label("?model=bad") == "good"

    watching(model_folder, work)


def test_the_built_in_model_is_served_on_beside_a_watched_folder(model_folder):
    async def work(watched: Watched) -> None:
        assert await watched.look(3) == []
        assert watched.served() == [("color", 1), ("slim-resnet50", 1)]

    watching(model_folder, work, builtin=True)


def test_what_is_passed_over_is_told_once(model_folder):
    (model_folder / "has space.onnx").touch()

    async def work(watched: Watched) -> None:
        assert await watched.look(2) == [], "the start has told it"
        (model_folder / "another one.onnx").touch()
        assert await watched.look(3) == ["model_file_passed_over"]

    watching(model_folder, work)


def test_a_file_alone_is_watched_too(model_folder):
    async def run(app, client) -> None:
        watched = Watched(app, client, model_folder)
        await watched.look()
        labelled(model_folder / "color.onnx", "new")
        await watched.look(2)
        assert await watched.label() == "new"
        (model_folder / "color.onnx").unlink()
        assert await watched.look(3) == ["watch_trouble"]
        assert await watched.label() == "new"

    during(model_folder / "color.onnx", run, watch=True)


def test_without_a_folder_there_is_nothing_to_watch():
    with pytest.raises(SettingsError, match="watch: without --models there is no folder"):
        load_settings({"watch": True}, {})
