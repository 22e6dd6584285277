"""Free ports, which stay the same from run to run as long as nobody else takes them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, TypeVar

from cli.probes import LOOPBACK
from weft.embedded import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Key = TypeVar("Key")


def pick_ports(keys: Iterable[Key], wanted: Mapping[Key, int]) -> dict[Key, int]:
    """Return a free port for each of `keys`: the wanted one if it is free, else any."""
    picked: dict[Key, int] = {}
    for key in keys:
        port = wanted.get(key, 0)
        if port in picked.values() or not is_free(port):
            port = _free_besides({*picked.values(), *wanted.values()})
        picked[key] = port
    return picked


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of the loopback interface now."""
    return 0 < port < 65_536 and why_not(port) is None


def why_not(port: int) -> str | None:
    """Return why no server could listen on `port` of the loopback interface now; None if one could."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return None


def _free_besides(taken: set[int]) -> int:
    while (port := free_port(LOOPBACK)) in taken:
        pass
    return port
