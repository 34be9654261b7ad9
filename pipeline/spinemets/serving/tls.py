"""TLS contexts for both directions: 1.2 or newer, as PS3.15 B.9 to B.12 ask for."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from spinemets.errors import ConfigError
from spinemets.serving.settings import Tls

__all__ = ["ClientContext", "client_context", "server_context", "web_context"]

_HANDSHAKE_S = 30.0


class _PatientContext(ssl.SSLContext):
    """Leaves the handshake to the thread of the connection.

    The thread that accepts would otherwise wait for a caller that connects and says nothing,
    and nobody else could connect.
    """

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        sock.settimeout(_HANDSHAKE_S)
        return super().wrap_socket(sock, *args, **{**options, "do_handshake_on_connect": False})


class ClientContext(ssl.SSLContext):
    """Remembers the connections it made, of which pynetdicom leaves some open when they fail."""

    made: list[socket.socket]

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        wrapped = super().wrap_socket(sock, *args, **options)
        self.made.append(wrapped)
        return wrapped


def server_context(tls: Tls) -> ssl.SSLContext:
    """What to listen with; callers must have certificates where an authority is named.

    Raises
    ------
    ConfigError
        A file cannot be read, or is not what it should be.
    """
    context = _PatientContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    if tls.authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ClientContext:
    """What to connect with; the other side's certificate and name are always checked.

    Raises
    ------
    ConfigError
        A file cannot be read, or is not what it should be.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.made = []
    _trust(context, tls)
    return context


def web_context(tls: Tls) -> ssl.SSLContext:
    """The same for HTTPS, whose library closes what it has opened.

    Raises
    ------
    ConfigError
        As for :func:`client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _trust(context, tls)
    return context


def _trust(context: ssl.SSLContext, tls: Tls) -> None:
    if tls.authority is None:
        context.load_default_certs()
    _load(context, tls)


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.authority is not None:
            context.load_verify_locations(tls.authority)
        if tls.certificate is not None:
            # Without a password function OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        files = ", ".join(str(path) for path in (tls.authority, tls.certificate, tls.key) if path)
        raise ConfigError(
            f"TLS: one of {files} cannot be used ({error}); expected PEM files, the key without a pass phrase"
        ) from error
