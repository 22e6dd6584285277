"""A collector of traces, as Jaeger is: takes OTLP over HTTP, and remembers whose spans came."""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Collector:
    """What came, by trace."""

    def __init__(self) -> None:
        self.services: defaultdict[str, set[str]] = defaultdict(set)
        """The services that took part in each trace."""

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        """Take spans on a port within the `async with`."""
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        # aiohttp has undone the compression.
        export = ExportTraceServiceRequest.FromString(await request.read())
        for resource in export.resource_spans:
            names = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.services[span.trace_id.hex()].update(names)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )
