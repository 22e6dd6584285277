"""Listening on a port, with errors that tell the operator what to do."""

from __future__ import annotations

import errno
import socket

from weft.startup import CannotStart


class CannotListen(CannotStart):
    """The service cannot listen where it was told to; the message says what to do about it."""


class PortInUse(CannotListen):
    """Something else listens on that port."""


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Return a socket that listens on `host` and `port` (0: any free one); the caller closes it.

    `setting` is the name of the setting that the port came from. Raises `PortInUse` and `CannotListen`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _explain(error, host, port, setting) from error
    return listener


def _explain(error: OSError, host: str, port: int, setting: str) -> CannotListen:
    address = join_address(host, port)
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{address} is in use: stop what listens there, or set {setting} to another port (0: any free)"
        )
    return CannotListen(f"cannot listen on {address} ({error.strerror or error}): set {setting} or its host anew")
