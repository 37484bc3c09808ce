"""The program rolls a version out while it answers, and back if it disagrees."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from color_model import write_color_model
from images import colored
from process import client_of, serving

from service.contract import Label

OTHER = tuple(Label(id=f"d{i}", label=label) for i, label in enumerate("xyz"))


def ask(client: httpx.Client) -> int:
    answer = client.post("/v1/classify", content=colored("red"))
    assert answer.status_code == 200
    version: int = answer.json()["version"]
    return version


def write_versions(folder: Path, *, same: bool) -> Path:
    write_color_model(folder / "models" / "color" / "1.onnx")
    if same:
        write_color_model(folder / "models" / "color" / "2.onnx")
    else:
        write_color_model(folder / "models" / "color" / "2.onnx", labels=OTHER)
    return folder / "models"


@pytest.mark.parametrize(
    ("same", "stage", "left"), [(True, "promoted", 2), (False, "rolled_back", 1)]
)
def test_a_canary_is_decided_by_the_answers_that_clients_get(tmp_path, same, stage, left):
    models = write_versions(tmp_path, same=same)
    with serving("--models", models, "--admin") as server, client_of(server) as client:
        while client.get("/readyz").status_code != 200:
            pass
        begun = client.post("/v1/models/color/rollout?mode=canary&percent=50")
        assert begun.json()["incumbent"] == 1
        seen = set()
        while client.get("/v1/models").json()["rollouts"][0]["stage"] == "running":
            seen.add(ask(client))
        assert seen == {1, 2}
        assert client.get("/v1/models").json()["rollouts"][0]["stage"] == stage
        assert {ask(client) for _ in range(20)} == {left}
        server.signal()
        assert server.exit_status() == 0
    (ended,) = [entry for entry in server.events if entry["event"] == "rollout_ended"]
    assert (ended["stage"], ended["version"]) == (stage, 2)
