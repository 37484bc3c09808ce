"""Taking the address: before models are loaded, and listened on only when they are."""

from __future__ import annotations

import io
import socket

import pytest

from service.app import create_app
from service.errors import SettingsError
from service.logs import LogWriter
from service.server import bind, run_server
from service.settings import Settings


def test_an_address_that_is_taken_answers_nobody_yet():
    """A client that came early would wait for as long as the models take to load."""
    with bind("127.0.0.1", 0) as listener:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname())
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(listener.getsockname())


def test_an_address_that_another_listens_on_is_named_with_its_settings():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1 port {port} \(--host, --port\)"):
            bind("127.0.0.1", port)


def test_of_two_that_start_at_once_the_slower_one_is_told_as_well(model_folder):
    """Both may bind while neither listens."""
    with bind("127.0.0.1", 0) as faster:
        port = faster.getsockname()[1]
        with bind("127.0.0.1", port) as slower:
            faster.listen()
            settings = Settings(models=model_folder, port=port, cache_dir=None)
            app = create_app(settings)
            with pytest.raises(SettingsError, match=f"port {port}"):
                run_server(app, settings, LogWriter(io.BytesIO()), slower)
