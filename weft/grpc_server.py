"""The gRPC server of one service, with the standard health and reflection.

What happens to each call is in `weft.grpc_calls`. Health and reflection are left out of it: probes leave
neither spans nor lines.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from weft import logs, ports
from weft.call_metrics import CallMetrics
from weft.grpc_calls import Edge, Methods
from weft.health import SERVICE_NAME as HEALTH
from weft.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    from weft.idempotency import KeptAnswers
    from weft.tokens import Verifier
    from weft.tracing import Tracing

_log = logs.logger("weft.grpc")
_MIB = 1024 * 1024
_OPTIONS = {
    # With it a second process could listen on the same port, and each would get some of the calls.
    "grpc.so_reuseport": 0,
    "grpc.max_receive_message_length": 4 * _MIB,
    # Find callers that went away without a word, and let ours do the same.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_recv_ping_interval_without_data_ms": 10_000,
}
_LINGER = 0.5
_SENDING = 1.0
_STUCK = 1.0
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class GrpcServer:
    """One service's gRPC server, with health and reflection.

    `default_deadline` is how many seconds a call may take whose caller set no deadline; for calls that answer
    with a stream it is `stream_deadline`. Without `answers`, no method keeps any.
    """

    def __init__(
        self,
        *,
        tracing: Tracing,
        verifier: Verifier,
        metrics: CollectorRegistry,
        host: str = "127.0.0.1",
        port: int = 0,
        default_deadline: float = 10.0,
        stream_deadline: float = 3600.0,
        max_concurrent_streams: int = 1000,
        port_setting: str = "WEFT_GRPC_PORT",
        answers: KeptAnswers | None = None,
    ) -> None:
        self.host = host
        self.port = port
        """The port it was told to take; once started, the one it listens on."""
        self.draining = asyncio.Event()
        """Set when `drain` begins: servicers end their streams then."""
        self._port_setting = port_setting
        self._options = {**_OPTIONS, "grpc.max_concurrent_streams": max_concurrent_streams}
        self._edge = Edge(tracing, verifier, CallMetrics(metrics), default_deadline, stream_deadline, answers)
        self._methods = Methods(self._edge)
        self._services: list[str] = []
        self._server: grpc.aio.Server | None = None
        self._health = Health(())

    def add(self, add_servicer: Callable[[Any, Any], None], servicer: object, service: str) -> None:
        """Serve `servicer`: `add_servicer` is its generated function, `service` the protobuf full name.

        Its methods are coroutine functions, or asynchronous generators. Must be called before `start`.
        Raises `ValueError` for a method that keeps its answers and cannot.
        """
        add_servicer(servicer, self._methods)
        self._services.append(service)

    async def start(self) -> int:
        """Listen, and return the port. Health says NOT_SERVING until `set_ready`.

        Raises `PortInUse` and `CannotListen`.
        """
        if self.port:
            # gRPC would not say why it cannot listen, but write to standard error.
            ports.listen(self.host, self.port, self._port_setting).close()
        server = grpc.aio.server(handlers=(self._methods,), options=tuple(self._options.items()))
        self._health = Health(self._services)
        add_HealthServicer_to_server(self._health, server)
        _add_reflection((*self._services, HEALTH), server)
        address = ports.join_address(self.host, self.port)
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ports.CannotListen(f"cannot listen on {address}: set {self._port_setting} or its host") from error
        await server.start()
        self._server = server
        return self.port

    def set_ready(self, ready: bool = True) -> None:
        """Tell health that calls are welcome, or not yet."""
        self._health.set_serving(ready)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let accepted ones finish for at most `seconds`, and stop.

        What arrives once gRPC is stopping it fails with CANCELLED, which tells callers nothing. So first those
        that watch health are given the time to leave, and then those that stay are told UNAVAILABLE.
        """
        self.draining.set()
        self._health.drain()
        if self._server is None:
            return
        began = time.monotonic()
        left = await self._edge.quiet(min(_LINGER, seconds))
        self._edge.refuse()
        if not left:
            await self._edge.quiet(min(_LINGER, seconds))
        await self._edge.done(max(0.0, began + seconds - time.monotonic()))
        # What is left is to send the last answers. It was seen never to return, and not to heed a cancellation.
        stopping = asyncio.ensure_future(self._server.stop(_SENDING if seconds else 0))
        ended, _ = await asyncio.wait([stopping], timeout=_SENDING + _STUCK)
        if not ended:
            _log.warning("gRPC did not end in time: going on without it")


def _add_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
    add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    # Version 1 differs in its package alone, and newer clients ask for it first.
    v1 = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        ServerReflectionRequest.FromString,
        ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": v1}),)
    )
