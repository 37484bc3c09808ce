"""TLS for gRPC, with the certificates that HTTP uses, and when they change, too."""

from __future__ import annotations

from typing import Any

import grpc

from service.tls import Tls


def server_credentials(tls: Tls) -> Any:
    """Return gRPC's credentials; each new connection gets the certificates then in force."""
    given = tls.pem

    def changed() -> Any:
        nonlocal given
        if tls.pem is given:
            return None
        given = tls.pem
        return _configuration(tls)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(tls), changed, require_client_authentication=tls.pem[2] is not None
    )


def _configuration(tls: Tls) -> Any:
    key, certificates, authorities = tls.pem
    return grpc.ssl_server_certificate_configuration([(key, certificates)], authorities)
