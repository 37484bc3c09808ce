"""Fixtures shared by several packages' tests."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from color_model import write_color_model
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from shared import shared_folder
from waiting import wait_until
from wire import patient_client

from service.app import create_app
from service.engine import openvino_library
from service.engine.base import Opener
from service.server import uvicorn_config
from service.settings import Settings

_IN_CI = "CI" in os.environ

# No test depends on the real clock: on a busy machine it says nothing about the code.
settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=_IN_CI,
    print_blob=True,
)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for tests that are slow or need other programs than Python's."""
    parser.addoption("--all", action="store_true", help="also tests that are marked as full")
    parser.addoption("--record", action="store_true", help="record HTTP exchanges (test_exchanges)")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collect only KServe's tests where its client is installed.

    It and Triton's define the same names, which protobuf refuses in one process.
    """
    is_other = collection_path.name.startswith("test_") and collection_path.stem != "test_kserve"
    is_other = is_other and collection_path.suffix == ".py"
    return True if is_other and importlib.util.find_spec("kserve") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `full` without `--all`, and those whose package is not installed."""
    left_out = set()
    if not config.option.all:
        left_out.add("full")
    for package in ("openvino", "kserve"):
        if importlib.util.find_spec(package) is None:
            left_out.add(package)
    deselected = [item for item in items if any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.hookimpl(tryfirst=True)  # before the plugin reads it, and xdist hands it to its workers
def pytest_configure(config: pytest.Config) -> None:
    """Draw different examples in each run, from a replayable seed; in CI always the same ones."""
    if config.option.hypothesis_seed is None and not _IN_CI:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how to draw the same examples again."""
    if config.option.hypothesis_seed is not None and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(
            f"replay with --hypothesis-seed={config.option.hypothesis_seed}"
        )


def pytest_sessionstart() -> None:
    """Restore Ctrl-C: pytest-xdist's workers ignore it, and so would the programs they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an app on a free port, on a thread; yield its URL once it is ready."""
    config = uvicorn_config(app, app.state.runtime.settings)
    config.port = 0
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with patient_client(url, retries=5) as client:
            client.get("/livez")
        models = app.state.runtime.repository.models
        wait_until(lambda: all(model.state != "warming" for model in models.needed()))
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return this run's folder, shared by all its processes; see `shared.made_once`."""
    return shared_folder(tmp_path_factory, os.environ.get("PYTEST_XDIST_WORKER"))


@pytest.fixture
def bf16_cpu() -> None:
    """Skip a test on a CPU without bfloat16."""
    if "bf16" not in openvino_library.faster():
        pytest.skip("this CPU has no bfloat16")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Return a model folder with one small real model, `color`."""
    write_color_model(tmp_path / "models" / "color.onnx")
    return tmp_path / "models"


@pytest.fixture
def serve(model_folder: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Return a function that starts a real server with the color model and given settings."""
    stack: list[tuple[httpx.Client, object]] = []
    # Set, so that nothing is measured: measurements on a busy machine don't matter to most tests.
    common = {"models": model_folder, "runners": 2, "intra_op_threads": 1}

    def start(opener: Opener | None = None, **settings: object) -> httpx.Client:
        app = create_app(Settings.model_validate(common | settings), opener)
        context = running(app)
        client = patient_client(context.__enter__())
        client.app = app  # type: ignore[attr-defined]
        stack.append((client, context))
        return client

    yield start
    for client, context in reversed(stack):
        client.close()
        context.__exit__(None, None, None)  # type: ignore[attr-defined]


@pytest.fixture
def client(serve: Callable[..., httpx.Client]) -> httpx.Client:
    """Return a client of a server with default settings and the color model."""
    return serve()
