"""One gateway: the composition root, from settings to a running server."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from gateway.admission import Admission
from gateway.app import App
from gateway.backends import Backends, check_hosts, service_of
from gateway.descriptors import Contract
from gateway.errors import ErrorWriter
from gateway.http_server import HttpServer
from gateway.pages import Pages, index
from gateway.protocol import Limits, protocol_with
from gateway.records import Metrics
from gateway.routes import make_routes
from weft import CannotStart, Tracing, logs
from weft.ops import OpsServer

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from gateway.settings import GatewaySettings

_log = logs.logger("weft.gateway")
_LINGER = 0.5
_MOMENT = 0.1
_BROWSERS_MAY_SEND = (
    "Authorization",
    "Content-Type",
    "Accept-Language",
    "Grpc-Timeout",
    "X-Request-Id",
    "X-Request-Timeout",
    "traceparent",
    "tracestate",
)
_BROWSERS_MAY_READ = ("Allow", "Retry-After", "WWW-Authenticate")


class Gateway:
    """One gateway, hosted like a service: alone in its process, or beside services in theirs."""

    def __init__(self, settings: GatewaySettings, *, tracing: Tracing | None = None) -> None:
        """Nothing is opened yet. Raises `CannotStart` for descriptors or annotations that cannot be served."""
        self.name = "gateway"
        self.settings = settings
        self.tracing = tracing or Tracing(self.name, settings.instance)
        self.metrics = CollectorRegistry()
        self.ready = False
        """Whether requests are served; false again once it stops."""
        self.ops_port = 0
        contract = Contract.load(settings.gateway_descriptors)
        self._backends = self._connect(contract)
        router, self.routes = make_routes(contract, map(service_of, settings.gateway_backends), self._backends)
        self._unserved = sorted(set(contract.methods) - set(map(service_of, settings.gateway_backends)))
        errors, counted = ErrorWriter(contract.pool), Metrics(self.metrics)
        self._app = App(
            router,
            Pages({"/": index(self.routes)}),
            Admission(),
            errors,
            tracing=self.tracing,
            metrics=counted,
            timeout=settings.gateway_timeout,
            max_timeout=settings.gateway_max_timeout,
            max_calls=settings.gateway_max_calls,
        )
        self._http = HttpServer(
            self._for_browsers(self._app),
            protocol_with(_limits(settings), errors, counted),
            host=settings.gateway_host,
            port=settings.gateway_port,
            port_setting="WEFT_GATEWAY_PORT",
        )
        self._closing = AsyncExitStack()

    @property
    def port(self) -> int:
        """The port on which HTTP is served, once started."""
        return self._http.port

    async def start(self) -> None:
        """Listen and serve; returns before any backend is there. Raises `CannotStart`."""
        settings, stack = self.settings, self._closing
        with logs.bound(service=self.name, instance=settings.instance):
            stack.push_async_callback(self.tracing.close)
            stack.push_async_callback(self._backends.close)
            checks = {"started": lambda: self.ready}
            ops = OpsServer(
                settings.gateway_host,
                settings.gateway_ops_port,
                checks,
                self.metrics,
                port_setting="WEFT_GATEWAY_OPS_PORT",
            )
            self.ops_port = await ops.start()
            stack.push_async_callback(ops.close)
            await self._http.start()
            self.ready = True
            if self._unserved:
                _log.info("services without a backend are not served", services=", ".join(self._unserved))
            _log.info("ready", http_port=self.port, ops_port=self.ops_port, routes=len(self.routes))

    async def failed(self) -> None:
        """Return never; raise what ended the server, should anything."""
        assert self._http.serving is not None
        await asyncio.shield(self._http.serving)
        raise RuntimeError("the HTTP server ended by itself")

    async def stop(self) -> None:
        """Say so to who balances the load, finish accepted requests, and close.

        Readiness goes first; for a moment requests are still taken, and each answer closes its connection, so
        that no client sends one into a connection that closes.
        """
        with logs.bound(service=self.name, instance=self.settings.instance):
            began = time.monotonic()
            self.ready = False
            self._app.closing = True
            if self._http.serving is not None:
                await self._quiet(min(_LINGER, self.settings.drain_seconds))
                await self._http.close(max(0.0, began + self.settings.drain_seconds - time.monotonic()))
            await self._closing.aclose()
            _log.info("stopped")

    async def _quiet(self, limit: float) -> None:
        """Wait until no request has arrived for a moment, for at most `limit` seconds."""
        until = time.monotonic() + limit
        seen = -1
        while seen != self._app.arrived and time.monotonic() < until:
            seen = self._app.arrived
            await asyncio.sleep(_MOMENT)

    def _connect(self, contract: Contract) -> Backends:
        settings = self.settings
        names = dict.fromkeys(map(service_of, settings.gateway_backends))
        for service in names:
            if service not in contract.methods:
                known = ", ".join(sorted(contract.methods)) or "no service at all"
                raise CannotStart(
                    f"WEFT_GATEWAY_BACKENDS: {service} is not in {settings.gateway_descriptors}, which has {known}"
                )
        check_hosts(settings.gateway_backends, contract.hosted_by)
        services = {name: contract.service(name) for name in names}
        return Backends(settings.gateway_backends, services, tracing=self.tracing, timeout=settings.gateway_max_timeout)

    def _for_browsers(self, app: ASGI3Application) -> ASGI3Application:
        """Let pages of other origins call, where the settings name any."""
        if not self.settings.gateway_allow_origins:
            return app
        from starlette.middleware.cors import CORSMiddleware

        allowing: ASGI3Application = CORSMiddleware(  # type: ignore[assignment]
            app,  # type: ignore[arg-type]
            allow_origins=self.settings.gateway_allow_origins,
            allow_methods=sorted({"GET", "HEAD", *(route.method for route in self.routes)} - {"*"}),
            allow_headers=_BROWSERS_MAY_SEND,
            expose_headers=_BROWSERS_MAY_READ,
        )
        return allowing


def _limits(settings: GatewaySettings) -> Limits:
    return Limits(
        body=settings.gateway_max_body_bytes,
        headers=settings.gateway_max_header_bytes,
        url=settings.gateway_max_url_bytes,
        connections=settings.gateway_max_connections,
        receive=settings.gateway_receive_seconds,
        idle=settings.gateway_idle_seconds,
    )
