"""The HTTP server of a gateway: uvicorn with the gateway's protocol, its signals left to the process."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import uvicorn

from weft import ports
from weft.http_server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uvicorn._types import ASGI3Application

    from gateway.http.protocol import Protocol


class HttpServer:
    """Serves an application on one port."""

    def __init__(
        self,
        app: ASGI3Application,
        protocol: type[Protocol],
        *,
        host: str,
        port: int,
        port_setting: str,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`headers` go with every answer, also with those of the protocol itself."""
        self.host = host
        self.port = port
        """The port it was told to take; once started, the one it listens on."""
        self._app = app
        self._protocol = protocol
        self._port_setting = port_setting
        self._headers = list(headers)
        self._server: Server | None = None
        self.serving: asyncio.Task[None] | None = None
        """Ends when the server does; once started."""

    async def start(self) -> int:
        """Listen, and return the port. Raises `PortInUse` and `CannotListen`."""
        listener = ports.listen(self.host, self.port, self._port_setting)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            headers=self._headers,
            ws="none",
            http=self._protocol,
            # The protocol keeps its own time, which bytes that begin no request do not reset.
            timeout_keep_alive=math.ceil(self._protocol.limits.idle) + 1,
        )
        self._server = Server(config)
        self.serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        await self._server.listening.wait()
        return self.port

    async def close(self, seconds: float) -> None:
        """Stop listening, finish what was accepted for at most `seconds`, and cancel the rest."""
        if self._server is not None and self.serving is not None:
            self._server.config.timeout_graceful_shutdown = math.ceil(seconds)
            self._server.should_exit = True
            await asyncio.gather(self.serving, return_exceptions=True)
