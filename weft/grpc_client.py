"""gRPC channels to other services: deadlines and traces passed on, retries only where they are safe.

Calls through a channel of `connect` are those of the bare `grpc.aio` channel that it wraps: they are awaited,
read and cancelled as usual. Each gets a deadline, the caller's token, a traceparent, and a CLIENT span where one
is recorded.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
import orjson
from google.protobuf.descriptor_pb2 import MethodOptions
from opentelemetry.trace import StatusCode

from weft import deadlines, identity
from weft.tracing import SpanKind, TraceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from google.protobuf.descriptor import ServiceDescriptor
    from opentelemetry.trace import Span

    from weft.tracing import Tracing

    _Metadata = Iterable[tuple[str, str | bytes]]

_TRACE_KEYS = frozenset({"traceparent", "tracestate"})
_SAFE = frozenset({MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT})
_OPTIONS = {
    "grpc.lb_policy_name": "round_robin",
    "grpc.service_config_disable_resolution": 1,
    # Calls between services never go through a proxy, whatever the environment says.
    "grpc.enable_http_proxy": 0,
    # Find a restarted service within seconds.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 1_000,
    "grpc.max_reconnect_backoff_ms": 2_000,
    "grpc.dns_min_time_between_resolutions_ms": 2_000,
    # Find a service that went away without a word.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.max_pings_without_data": 0,
}


def connect(
    address: str,
    *,
    tracing: Tracing,
    services: Iterable[ServiceDescriptor] = (),
    timeout: float = 5.0,
    attempts: int = 4,
) -> grpc.aio.Channel:
    """Return a channel to `address` (`host:port`, or a gRPC name); it connects when it is first used.

    A call takes at most `timeout` seconds if its caller sets no other, and never longer than the call in
    progress here has left; it carries that call's token on. Of `services`, the methods that the contract marks
    as `NO_SIDE_EFFECTS` or `IDEMPOTENT` are tried up to `attempts` times (2 to 5; 1: never again) while the
    answer is UNAVAILABLE.
    """
    options = {**_OPTIONS, "grpc.service_config": _service_config(services, attempts)}
    return Channel(address, tuple(options.items()), _Outbound(address, tracing, timeout))


def _service_config(services: Iterable[ServiceDescriptor], attempts: int) -> str:
    names = [name for service in services for name in _safe_methods(service)]
    retry = {
        "maxAttempts": attempts,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config: dict[str, object] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Watch each server's health: one that drains gets no more calls, before it has to refuse any.
        "healthCheckConfig": {"serviceName": ""},
    }
    if names and attempts > 1:
        config["methodConfig"] = [{"name": names, "retryPolicy": retry}]
        # While most calls fail, repeating them only adds to the trouble.
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
    return orjson.dumps(config).decode()


def _safe_methods(service: ServiceDescriptor) -> Iterator[dict[str, str]]:
    for method in service.methods:
        if method.GetOptions().idempotency_level in _SAFE:
            yield {"service": service.full_name, "method": method.name}


class _Outbound:
    """What the calls of one channel have in common."""

    __slots__ = ("server", "timeout", "tracing")

    def __init__(self, address: str, tracing: Tracing, timeout: float) -> None:
        self.tracing = tracing
        self.timeout = timeout
        self.server: dict[str, str | int] = {"server.address": address}
        host, _, port = address.rpartition("/")[2].rpartition(":")
        if host and port.isdecimal():
            self.server = {"server.address": host, "server.port": int(port)}


class _Method:
    """One method of a channel, called as the bare one is."""

    __slots__ = ("_attributes", "_bare", "_make", "_name", "_outbound")

    def __init__(self, make: Callable[[], Any], path: str, outbound: _Outbound) -> None:
        self._make = make
        self._bare: Any = None
        self._name = path.removeprefix("/")
        self._outbound = outbound
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": self._name, **outbound.server}

    def __call__(
        self, *request: Any, timeout: float | None = None, metadata: _Metadata | None = None, **options: Any
    ) -> Any:
        outbound = self._outbound
        wanted = outbound.timeout if timeout is None else timeout
        left = deadlines.remaining()
        span = outbound.tracing.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
        if self._bare is None:
            self._bare = self._make()
        call = self._bare(
            *request,
            timeout=wanted if left is None else min(wanted, left),
            metadata=_with_context(metadata or (), TraceContext.of_span(span)),
            **options,
        )
        if span.is_recording():
            call.add_done_callback(partial(_end, span))
        return call


def _with_context(metadata: _Metadata, place: TraceContext) -> _Metadata:
    others = [pair for pair in metadata if pair[0] not in _TRACE_KEYS]
    if (bearer := identity.bearer()) and not any(key == "authorization" for key, _ in others):
        others.append(("authorization", bearer))
    if place.tracestate:
        others.append(("tracestate", place.tracestate))
    return (*others, ("traceparent", place.traceparent))


def _end(span: Span, call: grpc.aio.Call) -> None:
    code = _code_of(call)
    span.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", code.name)
        span.set_status(StatusCode.ERROR)
    span.end()


def _code_of(call: grpc.aio.Call) -> grpc.StatusCode:
    """Return the code of a call that is done: then the coroutine has nothing to wait for."""
    asking = call.code()
    try:
        asking.send(None)
    except StopIteration as done:
        code: grpc.StatusCode = done.value
        return code
    asking.close()
    return grpc.StatusCode.UNKNOWN


class Channel(grpc.aio.Channel):
    """A `grpc.aio` channel whose calls get deadlines and traces; what `connect` returns."""

    def __init__(self, address: str, options: Sequence[tuple[str, Any]], outbound: _Outbound) -> None:
        self._open = partial(grpc.aio.insecure_channel, address, options)
        self._outbound = outbound
        self._opened: grpc.aio.Channel | None = None

    @property
    def _bare(self) -> grpc.aio.Channel:
        """Made when it is first needed: a bare channel belongs to the event loop on which it is made."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("unary_unary", method, *args, **options)

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("unary_stream", method, *args, **options)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("stream_unary", method, *args, **options)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("stream_stream", method, *args, **options)

    def _method(self, kind: str, path: str, *args: Any, **options: Any) -> _Method:
        return _Method(lambda: getattr(self._bare, kind)(path, *args, **options), path, self._outbound)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        if self._opened is not None:
            await self._opened.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._bare.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._bare.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._bare.channel_ready()
