"""How servers are started: their commands, environments and virtual environments."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import servers
from work import Task, task

GIVEN = Task("m.onnx", "contract.json", port=81, cores=2, max_batch=4, max_delay_ms=1)


@pytest.fixture
def venvs(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(servers, "_VENVS", tmp_path)
    return tmp_path


def test_a_peer_reads_what_it_is_to_do(monkeypatch):
    for name, value in GIVEN.to_environment().items():
        monkeypatch.setenv(name, value)
    assert task() == GIVEN
    monkeypatch.delenv("PEERS_PORT")
    with pytest.raises(SystemExit, match="PEERS_PORT is not set"):
        task()


def test_our_server_gets_the_same_model_file_and_batch_limit(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    given = replace(GIVEN, model_file=str(tmp_path / "m.onnx"))
    command = servers.command_of(servers.SERVERS[servers.OURS], given, tmp_path)
    assert command[command.index("--max-batch") + 1] == "4"
    assert command[command.index("--precision") + 1] == "exact", "the peers round nothing"
    (served,) = Path(command[command.index("--models") + 1]).iterdir()
    assert served.read_bytes() == b"model"


@pytest.mark.parametrize("name", servers.SERVERS)
def test_what_is_set_for_this_process_does_not_reach_a_server(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_SERVE_RUNNERS", "7")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    environment = servers.environment_of(servers.SERVERS[name], GIVEN, tmp_path)
    assert environment["HOME"] == environment["TMPDIR"] == str(tmp_path)
    assert not [name for name in environment if name.startswith("RESNET_SERVE_")]
    assert not {"PYTHONDONTWRITEBYTECODE", "XDG_CACHE_HOME"} & set(environment)
    assert ("PEERS_MODEL_FILE" in environment) == (not servers.SERVERS[name].ours)


def test_a_peer_is_there_once_it_is_installed_in_these_versions(venvs, monkeypatch):
    peer = servers.SERVERS["mosec"]
    assert "--setup" in servers.problem_of(peer)
    (venvs / "mosec").mkdir()
    servers._stamp(peer).write_text(servers._wanted(peer))
    assert servers.problem_of(peer) == ""
    servers._stamp(peer).write_text("{}")
    assert "other versions" in servers.problem_of(peer)


@pytest.mark.parametrize("name", [name for name, each in servers.SERVERS.items() if not each.ours])
def test_every_version_of_a_peer_is_pinned(name):
    """Those that are asked for are among those that are all pinned."""
    pinned = {}
    for line in (servers.HERE / name / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            package, version = line.split("==")
            pinned[package.lower().replace("_", "-")] = version
    for line in (servers.HERE / name / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            package, version = re.sub(r"\[.*\]", "", line).split("==")
            assert pinned[package] == version
    assert set(servers.SHARED_PACKAGES) <= set(pinned)
    assert (servers.HERE / name / "server.py").is_file()
