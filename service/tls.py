"""TLS from files that may be replaced while the service runs, as certificates expire."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.errors import TlsFilesError
from service.watched import WatchedFiles

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """The files: a chain of certificates, its key, and the authorities of clients."""

    cert: Path
    key: Path | None
    """None if `cert` has the key too."""
    client_ca: Path | None
    """If there is one, clients must have a certificate of one of them."""


class Tls:
    """Gives contexts that use, for each new connection, the files as last read.

    A context can't be changed safely, as a key that does not belong to the new certificate would
    leave it half changed; so new ones are made, and a connection gets the current one when it
    begins its handshake.
    """

    def __init__(self, paths: TlsPaths) -> None:
        """Read the files; raises `TlsFilesError`."""
        self._paths = paths
        given = (paths.cert, paths.key, paths.client_ca)
        self.files = WatchedFiles(*(path for path in given if path is not None))
        self._current = _contexts(paths)
        self.pem = _pem(paths)
        """What is in force: the key, the certificates, and the authorities of clients."""

    def context(self, *, asks_clients: bool = True) -> ssl.SSLContext:
        """Return a context for listening; `asks_clients` for certificates if there is a file."""
        context = _context(self._paths, asks_clients=asks_clients)

        def use_current(
            connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
        ) -> None:
            connection.context = self._current[asks_clients]

        context.sni_callback = use_current  # called without a name, too
        return context

    def reload(self) -> None:
        """Read the files again; what can't be used leaves the certificates that are in force."""
        try:
            self._current = _contexts(self._paths)
            self.pem = _pem(self._paths)
        except TlsFilesError as error:
            _log.error("certificates_not_taken", detail=str(error))
            return
        _log.info("certificates_taken", path=str(self._paths.cert))


def _pem(paths: TlsPaths) -> tuple[bytes, bytes, bytes | None]:
    """Read what `_contexts` has accepted."""
    try:
        authorities = None if paths.client_ca is None else paths.client_ca.read_bytes()
        return (paths.key or paths.cert).read_bytes(), paths.cert.read_bytes(), authorities
    except OSError as error:
        raise TlsFilesError(f"{_named(paths.cert, paths.key)}: {_why(error)}") from error


def _contexts(paths: TlsPaths) -> dict[bool, ssl.SSLContext]:
    return {asks: _context(paths, asks_clients=asks) for asks in (True, False)}


def _context(paths: TlsPaths, *, asks_clients: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(paths.cert, paths.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise TlsFilesError(f"{_named(paths.cert, paths.key)}: {_why(error)}") from error
    if asks_clients and paths.client_ca is not None:
        try:
            context.load_verify_locations(paths.client_ca)
        except (OSError, ValueError) as error:
            raise TlsFilesError(f"{paths.client_ca}: {_why(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session would not be checked against authorities that have changed.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking for a password on the terminal."""
    raise ValueError("the key is protected by a password; give one that is not")


def _named(cert: Path, key: Path | None) -> str:
    return str(cert) if key is None else f"{cert} and {key}"


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        return f"can't be used: {reason}"
    return getattr(error, "strerror", None) or str(error)
