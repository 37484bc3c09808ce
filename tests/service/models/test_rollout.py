"""A version is compared with the one that answers, and takes over or not."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import during, until
from color_model import write_color_model
from hypothesis import given
from hypothesis import strategies as st
from images import colored
from open_inference import json_request, pixels_of

from service.batching.admission import ByteGate
from service.contract import Label
from service.errors import ModelSelectionError, SettingsError
from service.inference.shadow import Shadow
from service.models.rollout import Judge, Mode, Plan, Verdict
from service.settings import load_settings

OTHER = tuple(Label(id=f"d{i}", label=label) for i, label in enumerate("xyz"))
QUICK = {"rollout_min_agreement": 0.5, "rollout_error": 0.2}
"""Limits that a few answers settle."""


class Served:
    """Versions 1 and 2 of the model `v`, as a client sees them."""

    def __init__(self, app, client) -> None:
        self.runtime, self.client, self.asked = app.state.runtime, client, 0

    @property
    def rollout(self):
        return self.runtime.rollouts.of("v")

    @property
    def shadow(self) -> Shadow:
        return self.runtime.inference.on_answer.__self__

    async def ask(self, query: str = "") -> int:
        """Post an image with a new request id; return the version that answered."""
        self.asked += 1
        answer = await self.client.post(
            f"/v1/classify?model=v{query}",
            content=colored("red"),
            headers={"X-Request-Id": f"request-{self.asked}"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["version"]

    async def ask_until(self, done: Callable[[], bool], most: int = 200) -> list[int]:
        """Post images, each once the last comparison is over; return who answered."""
        versions: list[int] = []
        while not done() and len(versions) < most:
            versions.append(await self.ask())
            await until(lambda: self.runtime.repository.is_idle)
            await until(lambda: not self.shadow._running)
        assert done()
        return versions

    async def shown(self) -> dict[str, Any]:
        (shown,) = (await self.client.get("/v1/models")).json()["rollouts"]
        return shown

    async def metrics(self) -> str:
        return (await self.client.get("/metrics")).text


def with_versions(
    folder: Path, work: Callable[[Served], Awaitable[None]], *, same: bool, **settings
) -> None:
    """Serve two versions; those that are not the `same` never agree."""
    write_color_model(folder / "v" / "1.onnx")
    changes: dict[str, Any] = {} if same else {"labels": OTHER}
    write_color_model(folder / "v" / "2.onnx", **changes)

    async def run(app, client) -> None:
        await work(Served(app, client))

    during(folder, run, default_model="color", **(QUICK | settings))


def test_a_shadow_that_agrees_is_promoted(model_folder):
    async def work(served: Served) -> None:
        answered = await served.ask_until(lambda: served.rollout.stage == "promoted")
        assert set(answered) == {1}, "the answers of a shadow are not returned"
        assert await served.ask() == 2
        shown = await served.shown()
        assert (shown["stage"], shown["verdict"], shown["mode"]) == ("promoted", "good", "shadow")
        assert shown["agreement"]["count"] == shown["agreement"]["answers"] == len(answered)
        text = await served.metrics()
        labels = 'model="v",outcome="agreed",version="2"'
        assert f"resnet_serve_rollout_comparisons_total{{{labels}}} {len(answered)}.0" in text
        assert 'resnet_serve_rollout_stage{model="v",stage="promoted",version="2"} 1.0' in text
        assert text.count("resnet_serve_rollout_stage{") == 1

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:100"})


def test_a_shadow_that_disagrees_is_rolled_back(model_folder):
    async def work(served: Served) -> None:
        answered = await served.ask_until(lambda: served.rollout.stage == "rolled_back")
        assert set(answered) == {1}
        assert await served.ask() == 1
        assert (await served.shown())["agreement"]["count"] == 0

    with_versions(model_folder, work, same=False, rollout={"v": "2:shadow:100"})


def test_a_canary_answers_its_share_and_is_promoted(model_folder):
    async def work(served: Served) -> None:
        answered = await served.ask_until(lambda: served.rollout.stage == "promoted")
        assert set(answered) == {1, 2}
        assert {await served.ask() for _ in range(20)} == {2}
        assert (await served.shown())["agreement"]["answers"] == answered.count(2)

    with_versions(model_folder, work, same=True, rollout={"v": "2:canary:50"})


def test_a_canary_that_disagrees_is_rolled_back(model_folder):
    async def work(served: Served) -> None:
        await served.ask_until(lambda: served.rollout.stage == "rolled_back")
        assert {await served.ask() for _ in range(20)} == {1}
        assert await served.ask("&version=2") == 2, "who names it still gets it"

    with_versions(model_folder, work, same=False, rollout={"v": "2:canary:50"})


@pytest.mark.parametrize("mode", Mode)
def test_a_slow_candidate_is_rolled_back_however_well_it_agrees(model_folder, mode):
    async def work(served: Served) -> None:
        await served.ask_until(lambda: served.rollout.stage == "rolled_back")
        shown = await served.shown()
        assert shown["slow"]["count"] == shown["slow"]["answers"] > 0
        assert 'speed="slow",version="2"' in await served.metrics()

    with_versions(
        model_folder, work, same=True, rollout={"v": f"2:{mode}:90"}, rollout_min_agreement=0.999,
        rollout_slow_ms=1e-6,
    )  # fmt: skip


def test_a_verdict_may_only_be_reported(model_folder):
    async def work(served: Served) -> None:
        await served.ask_until(lambda: served.rollout.verdict == "bad")
        assert (await served.shown())["stage"] == "running"
        assert {await served.ask() for _ in range(30)} == {1, 2}

    with_versions(
        model_folder, work, same=False, rollout={"v": "2:canary:50"}, rollout_action="report"
    )


def test_a_shadow_gets_its_share_of_the_requests(model_folder):
    async def work(served: Served) -> None:
        await served.ask_until(lambda: served.asked == 100)
        assert 10 <= served.rollout.judge.agreement.observations <= 40  # of 25; ids are fixed

    with_versions(
        model_folder, work, same=True, rollout={"v": "2:shadow:25"}, rollout_min_agreement=0.999
    )


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


def test_an_answer_does_not_wait_for_its_comparison_and_no_second_begins_meanwhile(model_folder):
    async def work(served: Served) -> None:
        held = Held(served.runtime.repository.find("v", 2))
        assert await served.ask() == 1
        await until(held.begun.is_set)
        assert await served.ask() == 1
        assert served.rollout.dropped == 1, "there was something running"
        held.go.set()
        await until(lambda: served.rollout.judge.agreement.observations == 1)
        assert (await served.shown())["dropped"] == 1
        assert 'outcome="dropped",version="2"} 1.0' in await served.metrics()

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:100"}, runners=2)


def test_a_comparison_for_whose_image_there_is_no_room_is_dropped(model_folder):
    async def work(served: Served) -> None:
        served.shadow._bytes = ByteGate(len(colored("red")) - 1)
        assert await served.ask() == 1
        await until(lambda: served.rollout.dropped == 1)
        served.shadow._bytes = gate = ByteGate(len(colored("red")))
        assert await served.ask() == 1
        await until(lambda: served.rollout.judge.agreement.observations == 1)
        assert gate.held == 0

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:100"})


def test_a_comparison_keeps_its_image_and_not_the_whole_body(model_folder):
    """Only the image is counted, while the body may have many more."""

    async def work(served: Served) -> None:
        compared: list[Any] = []
        begin = served.shadow._begin

        def noted(pair, run):
            async def run_and_note(request):
                compared.extend(request.images)
                return await run(request)

            begin(pair, run_and_note)

        served.shadow._begin = noted
        pixels = pixels_of("red", "green", "blue")
        answer = await served.client.post("/v2/models/v/infer", json=json_request(pixels))
        assert answer.status_code == 200, answer.text
        await until(lambda: compared)
        (image,) = compared
        assert np.array_equal(image, pixels[0])
        assert image.base is None

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:100"})


def test_a_candidate_that_fails_disagrees(model_folder):
    async def work(served: Served) -> None:
        def failing(pixels, outputs):
            raise RuntimeError("the test breaks it")

        served.runtime.repository.find("v", 2).engine.run = failing
        await served.ask_until(lambda: served.rollout.stage == "rolled_back")

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:100"})


@pytest.mark.parametrize("mode", Mode)
def test_a_candidate_that_is_unloaded_ends_its_rollout(model_folder, mode):
    async def work(served: Served) -> None:
        await served.runtime.control.unload("v", {"version": 2})
        assert {await served.ask() for _ in range(10)} == {1}
        if mode is Mode.SHADOW:
            assert served.rollout.reason == "version 2 is not served as it was any more"

    with_versions(model_folder, work, same=True, rollout={"v": f"2:{mode}:90"})


@pytest.mark.parametrize("replaced", [1, 2])
@pytest.mark.parametrize("mode", Mode)
def test_a_rollout_ends_when_a_file_that_it_compares_is_replaced(model_folder, mode, replaced):
    async def work(served: Served) -> None:
        await served.ask_until(lambda: served.rollout.judge.agreement.observations == 1)
        write_color_model(model_folder / "v" / f"{replaced}.onnx", architecture="another")
        await served.runtime.control.load("v")
        await served.ask_until(lambda: served.rollout.stage == "rolled_back")
        assert await served.ask() == 1

    with_versions(
        model_folder, work, same=True, rollout={"v": f"2:{mode}:90"}, rollout_min_agreement=0.999
    )


@pytest.mark.parametrize("gone", [1, 2])
@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_a_rollout_ends_at_once_when_a_version_that_it_compares_is_unloaded(
    model_folder, mode, gone
):
    """The other one then answers, and another rollout can begin."""

    async def work(served: Served) -> None:
        await served.runtime.control.unload("v", {"version": gone})
        shown = await served.shown()
        assert shown["stage"] == "rolled_back"
        assert shown["reason"] == f"version {gone} is not served as it was any more"
        assert await served.ask() == 3 - gone

    with_versions(model_folder, work, same=True, rollout={"v": f"2:{mode}:50"})


def test_versions_that_come_after_a_rollback_answer_once_those_compared_are_gone(model_folder):
    async def work(served: Served) -> None:
        served.runtime.rollouts.end("v", "on request")
        write_color_model(model_folder / "v" / "3.onnx")
        await served.runtime.control.load("v")
        assert await served.ask() == 1
        for version in (1, 2):
            (model_folder / "v" / f"{version}.onnx").unlink()
        await served.runtime.control.load("v")
        assert await served.ask() == 3

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:50"})


def test_after_a_promotion_the_latest_version_is_followed_again(model_folder):
    async def work(served: Served) -> None:
        await served.ask_until(lambda: served.rollout.stage == "promoted")
        write_color_model(model_folder / "v" / "3.onnx")
        await served.runtime.control.load("v")
        assert await served.ask() == 3

    with_versions(model_folder, work, same=True, rollout={"v": "2:shadow:100"})


def test_over_http_a_rollout_begins_and_ends(model_folder):
    async def work(served: Served) -> None:
        post, url = served.client.post, "/v1/models/v/rollout"
        begun = await post(f"{url}?mode=canary&percent=30")
        assert begun.status_code == 200
        assert begun.json() == await served.shown()
        assert (begun.json()["candidate"], begun.json()["incumbent"]) == (2, 1)
        listed = (await served.client.get("/v1/models")).json()["models"]
        assert {m["version"]: m["share"] for m in listed if m["name"] == "v"} == {1: 0.7, 2: 0.3}
        again = await post(url)
        assert (again.status_code, again.json()["code"]) == (409, "rollout_refused")
        ended = await served.client.delete(url)
        assert (ended.json()["stage"], ended.json()["reason"]) == ("rolled_back", "on request")
        assert {await served.ask() for _ in range(10)} == {1}
        assert (await served.client.delete(url)).status_code == 409
        for query, status in (
            ("?version=9", 409), ("?percent=101", 400), ("?percent=0", 400), ("?mode=x", 400),
            ("?mode=canary&percent=100", 409), ("?a=b", 400),
        ):  # fmt: skip
            assert (await post(url + query)).status_code == status, query
        assert (await post("/v1/models/nope/rollout")).status_code == 404
        assert (await post("/v1/models/color/rollout")).status_code == 409, "it has one version"

    with_versions(model_folder, work, same=True, admin=True)


def test_only_who_may_begins_or_ends_a_rollout(model_folder):
    async def work(served: Served) -> None:
        for method in ("POST", "DELETE"):
            answer = await served.client.request(method, "/v1/models/v/rollout")
            assert (answer.status_code, answer.json()["code"]) == (403, "admin_off")

    with_versions(model_folder, work, same=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3:shadow:10", "model v has no version 3 loaded"),
        ("2:shadow:101", "must be VERSION:shadow:PERCENT or VERSION:canary:PERCENT"),
        ("2:canary:100", "a canary answers at most 99 percent"),
        ("2", "must be VERSION:shadow:PERCENT"),
    ],
)
def test_what_is_wrong_with_the_setting_stops_the_start(model_folder, text, said):
    with pytest.raises(ModelSelectionError, match=said) as caught:
        with_versions(
            model_folder, lambda _: pytest.fail("it has started"), same=True, rollout={"v": text}
        )
    assert str(caught.value).startswith(f"--rollout v={text}: ")


def test_the_setting_takes_several_models():
    settings, _ = load_settings({"rollout": "a=2:shadow:10,b=3:canary:5"}, {})
    assert settings.rollout == {"a": "2:shadow:10", "b": "3:canary:5"}
    with pytest.raises(SettingsError, match="must be pairs like resnet50=3:shadow:10"):
        load_settings({"rollout": "2:shadow:10"}, {})
    assert Plan.parse("3:canary:5") == Plan(3, Mode.CANARY, 5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_a_judge_never_calls_a_candidate_good_and_bad_at_once(answers):
    judge = Judge(min_agreement=0.9, max_slow_share=0.1, slow_ms=10, error=0.1)
    for agreed, is_slow in answers:
        judge.agreement.note(one=agreed)
        judge.note_time(0.02 if is_slow else 0.001)
    lower, upper = judge.agreement.interval()
    quick = judge.slowness.interval()
    if judge.verdict is Verdict.GOOD:
        assert lower >= 0.9
        assert quick[1] < 0.1 + 1e-9
    if judge.verdict is Verdict.BAD:
        assert upper < 0.9 + 1e-9 or quick[0] >= 0.1 - 1e-9
