"""nats-py, for the chassis' other modules: imported without aiohttp, which it needs for WebSockets alone.

aiohttp is a sixth of the time in which a service starts, and 8 MB of what it holds. nats-py is ready for it not to be
there, so it is hidden while nats-py is imported, and handed over when somebody connects over a WebSocket.
"""

from __future__ import annotations

import sys
from importlib import import_module

_hidden = "aiohttp" not in sys.modules
if _hidden:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # an import of it fails
try:
    from nats import errors
    from nats.aio import transport
    from nats.aio.client import Client
    from nats.errors import ConnectionClosedError
    from nats.js import JetStreamContext, api
    from nats.js.errors import APIError, NotFoundError
    from nats.protocol.command import hpub_cmd
finally:
    if _hidden:
        del sys.modules["aiohttp"]

__all__ = [
    "APIError",
    "Client",
    "ConnectionClosedError",
    "JetStreamContext",
    "NotFoundError",
    "api",
    "errors",
    "hpub_cmd",
    "prepare_for",
]


def prepare_for(url: str) -> None:
    """Make nats-py ready for servers at `url`, which may have several with commas between."""
    if any(one.strip().startswith(("ws://", "wss://")) for one in url.split(",")):
        vars(transport)["aiohttp"] = import_module("aiohttp")
