"""The standard gRPC health service of one server: NOT_SERVING until it is ready, and again when it drains."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from grpc_health.v1.health_pb2 import HealthCheckRequest

    Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]

SERVICE_NAME = DESCRIPTOR.services_by_name["Health"].full_name


class Health(HealthServicer):
    """Answers for the whole server (the empty name) and for each of its services, all with the same status.

    Unlike the reference implementation it ends watches when the server drains, so that they don't hold it up.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._names = {"", *services}
        self._serving = False
        self._draining = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Answer SERVING or NOT_SERVING from now on; ignored once it drains."""
        if not self._draining:
            self._set(serving)

    def drain(self) -> None:
        """Answer NOT_SERVING for good, and end the watches."""
        self._draining = True
        self._set(False)

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802
        """Answer the status, or fail with NOT_FOUND for an unknown service."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return self._answer(request)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """Answer the status now and whenever it changes."""
        told = None
        while True:
            changed, answer = self._changed, self._answer(request)
            if answer != told:
                await context.write(answer)
                told = answer
            elif self._draining:
                return
            else:
                await changed.wait()

    def _answer(self, request: HealthCheckRequest) -> HealthCheckResponse:
        if request.service not in self._names:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        if self._serving:
            return HealthCheckResponse(status=HealthCheckResponse.SERVING)
        return HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)

    def _set(self, serving: bool) -> None:
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()
