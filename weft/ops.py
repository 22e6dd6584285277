"""The operations port of one service: /livez, /readyz, /metrics, and pages of its own, over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
import uvicorn
from prometheus_client.exposition import choose_encoder

from weft import logs, ports
from weft.http_server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

    Check = Callable[[], bool | str]
    Page = tuple[int, str, bytes]
    Produce = Callable[[], Awaitable[tuple[str, bytes]]]
    """Returns a page's content type and body."""

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_OURS = ("/livez", "/readyz", "/metrics")
_log = logs.logger("weft.ops")


class OpsServer:
    """Serves the operations port.

    `checks` tell, by name, whether the service is ready: `True` or `"ok"` is good, `False` or any other text,
    which says why, is not; nor is a check that raises. They run on the event loop at each request, so they
    only look at what is known. `/readyz` answers 200 or 503, `/livez` always 200, `/metrics` what is in
    `registry`; each of `pages` what it produces, or 503 if it raises.
    """

    def __init__(
        self,
        host: str,
        port: int,
        checks: Mapping[str, Check],
        registry: CollectorRegistry,
        *,
        pages: Mapping[str, Produce] | None = None,
        port_setting: str = "WEFT_OPS_PORT",
    ) -> None:
        self.host = host
        self.port = port
        """The port it was told to take; once started, the one it listens on."""
        self._checks = checks
        self._registry = registry
        self._pages = pages or {}
        self._port_setting = port_setting
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

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
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=16 * 1024,
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="ops")
        await self._server.listening.wait()
        return self.port

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def _app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        accept = headers.get(b"accept", b"").decode("latin-1")
        status, kind, body = await self._page(scope["method"], scope["path"], accept)
        fields = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if status == 405:
            fields.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": fields, "trailers": False})
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown, "more_body": False})

    async def _page(self, method: str, path: str, accept: str) -> Page:
        if path not in (*_OURS, *self._pages):
            return 404, _TEXT, f"there is {', '.join((*_OURS, *self._pages))}\n".encode()
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET and HEAD\n"
        if path == "/metrics":
            encode, kind = choose_encoder(accept)
            return 200, kind, encode(self._registry)
        if produce := self._pages.get(path):
            return await _produced(produce, path)
        return self._readiness() if path == "/readyz" else (200, _JSON, _json("ok", {}))

    def _readiness(self) -> Page:
        results = {name: _result(check) for name, check in self._checks.items()}
        ready = all(result == "ok" for result in results.values())
        return (200, _JSON, _json("ok", results)) if ready else (503, _JSON, _json("not ready", results))


async def _produced(produce: Produce, path: str) -> Page:
    try:
        return 200, *await produce()
    except Exception as error:
        _log.warning("a page cannot be shown", path=path, error=f"{type(error).__name__}: {error}")
        return 503, _TEXT, b"not now; try again\n"


def _result(check: Check) -> str:
    try:
        result = check()
    except Exception as error:
        return f"the check failed: {type(error).__name__}"
    if isinstance(result, str):
        return result
    return "ok" if result else "failed"


def _json(status: str, checks: Mapping[str, str]) -> bytes:
    return orjson.dumps({"status": status, "checks": checks}, option=orjson.OPT_APPEND_NEWLINE)
