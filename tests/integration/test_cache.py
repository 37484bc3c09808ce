"""The program caches its measurements, and starts whether or not it can."""

from __future__ import annotations

from typing import Any

from process import client_of, serving


def test_what_is_measured_is_kept_where_the_users_caches_are(model_folder, tmp_path):
    """An empty `RESNET_SERVE_CACHE_DIR` counts as unset."""
    environ: dict[str, Any] = {
        "RESNET_SERVE_CACHE_DIR": "",
        "XDG_CACHE_HOME": str(tmp_path / "caches"),
    }
    environ |= {"RESNET_SERVE_RUNNERS": "0", "RESNET_SERVE_INTRA_OP_THREADS": "0"}
    with serving("--models", model_folder, **environ) as server:
        with client_of(server) as client:
            first = client.get("/health").json()["models"][0]["latency_ms"]
        server.signal()
        assert server.exit_status() == 0
    kept = sorted(path.name for path in (tmp_path / "caches" / "resnet-serve").iterdir())
    assert [name for name in kept if name.startswith("batches-")]
    with serving("--models", model_folder, **environ) as server, client_of(server) as client:
        health = client.get("/health").json()
    if health["parallelism"]["source"] == "cache":  # figures of a busy machine are not cached
        assert health["models"][0]["latency_ms"] == first


def test_without_a_place_to_keep_it_the_program_starts_all_the_same(model_folder):
    """As in a container with a read-only file system and a user without a home."""
    environ: dict[str, Any] = {"RESNET_SERVE_CACHE_DIR": "", "XDG_CACHE_HOME": "/proc/none"}
    with serving("--models", model_folder, **environ) as server:
        told = [event for event in server.events if event["event"] == "cache_unusable"]
        assert len(told) == 1
        assert told[0]["level"] == "warning"
