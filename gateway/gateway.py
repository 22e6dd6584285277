"""One gateway: the composition root, from settings to a running server."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from gateway.admission.addresses import Addresses
from gateway.admission.gate import Admission, Rates
from gateway.admission.rates import Limit
from gateway.admission.trust import Trust
from gateway.app import App
from gateway.backends import Backends
from gateway.contract.sources import open_source
from gateway.errors import ErrorWriter
from gateway.health import Readiness, healthz
from gateway.http.browsers import for_pages_of, safe_headers
from gateway.http.protocol import Caps, protocol_with
from gateway.http.server import HttpServer
from gateway.messages.codec import Codec
from gateway.openapi import describe, site
from gateway.pages import Pages, index
from gateway.records import Metrics
from gateway.routes import make_routes
from gateway.streaming.streams import Streams
from weft import Tracing, logs
from weft.ops import OpsServer

if TYPE_CHECKING:
    from gateway.contract.sources import Source
    from gateway.settings import GatewaySettings
    from weft.tokens import Fetch

_log = logs.logger("weft.gateway")
_LINGER = 0.5
_MOMENT = 0.1


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
        source = open_source(settings)
        contract = source.contract
        self._backends = Backends(
            source.backends,
            {name: contract.service(name) for name in source.services},
            tracing=self.tracing,
            timeout=settings.gateway_max_timeout,
        )
        codec = Codec(contract.pool, lenient=settings.gateway_lenient, omit_defaults=settings.gateway_omit_defaults)
        router, self.routes = make_routes(contract, source.services, self._backends, codec)
        self._unserved = sorted(set(contract.methods) - set(source.services))
        errors, counted = ErrorWriter(contract.pool), Metrics(self.metrics)
        self._trust = Trust(settings, contract)
        addresses = Addresses(settings.gateway_trusted_proxies)
        self._readiness = Readiness(self._backends.health_checks(), lacks=self._lacks)
        self._streams = Streams(
            errors,
            counted,
            heartbeat=settings.gateway_heartbeat_seconds,
            most=settings.gateway_max_streams,
            most_of_one=settings.gateway_max_streams_per_user,
        )
        self._app = App(
            router,
            self._pages(source),
            Admission(self._trust.doors, addresses, _rates(settings)),
            errors,
            passed={name.encode(): name for name in settings.gateway_pass_headers},
            gzip=settings.gateway_gzip,
            tracing=self.tracing,
            metrics=counted,
            streams=self._streams,
            timeout=settings.gateway_timeout,
            max_timeout=settings.gateway_max_timeout,
            stream_timeout=settings.gateway_stream_seconds,
            idle=settings.gateway_idle_seconds,
            max_calls=settings.gateway_max_calls,
        )
        methods = {route.method for route in self.routes} - {"*"}
        self._http = HttpServer(
            for_pages_of(self._app, settings.gateway_allow_origins, methods, settings.gateway_pass_headers),
            protocol_with(_caps(settings), addresses, errors, counted),
            headers=safe_headers(
                for_others=bool(settings.gateway_allow_origins), https_seconds=settings.gateway_hsts_seconds
            ),
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
            stack.push_async_callback(self._readiness.close)
            self._trust.start()
            stack.push_async_callback(self._trust.close)
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

    def trusts(self, fetch: Fetch) -> None:
        """Verify tokens with the keys that `fetch` returns, if the settings do not say where they are."""
        self._trust.fetches(fetch)

    def _pages(self, source: Source) -> Pages:
        settings = self.settings
        document = describe(
            source.contract,
            source.services,
            guarded=settings.gateway_auth,
            lenient=settings.gateway_lenient,
            omits_defaults=settings.gateway_omit_defaults,
        )
        own = {"/": index(self.routes), "/healthz": healthz, "/readyz": self._readiness.page}
        return Pages(site(document, gzip=settings.gateway_gzip) | own)

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
                self._streams.stop()
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

    def _lacks(self) -> str:
        if not self.ready:
            return "stopping"
        return "no signing keys yet" if self._trust.lacks_keys else ""


def _rates(settings: GatewaySettings) -> Rates:
    address, user = settings.gateway_rate_per_address, settings.gateway_rate_per_user
    return Rates(
        Limit("address", address, settings.gateway_burst_per_address) if address else None,
        Limit("user", user, settings.gateway_burst_per_user) if user else None,
    )


def _caps(settings: GatewaySettings) -> Caps:
    return Caps(
        body=settings.gateway_max_body_bytes,
        headers=settings.gateway_max_header_bytes,
        header_count=settings.gateway_max_headers,
        url=settings.gateway_max_url_bytes,
        connections=settings.gateway_max_connections,
        connections_of_one=settings.gateway_max_connections_per_address,
        receive=settings.gateway_receive_seconds,
        idle=settings.gateway_idle_seconds,
    )
