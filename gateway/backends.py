"""The services behind a gateway: one channel to each address, and calls with bytes as they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from gateway.errors import refusal
from weft import CannotStart, connect, logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from weft import Tracing

    Call = Callable[..., Awaitable[bytes]]
    """Called with the encoded request, `timeout` in seconds and `metadata`; raises `AioRpcError`."""
    StreamCall = Callable[..., grpc.aio.UnaryStreamCall[bytes, bytes]]
    """Called as a `Call` is; what it returns is read message by message, each encoded."""


_log = logs.logger("weft.gateway")


class Backends:
    """Channels to the services; they connect when they are first used, and are found again when they come back."""

    def __init__(
        self, targets: Mapping[str, str], services: Mapping[str, ServiceDescriptor], *, tracing: Tracing, timeout: float
    ) -> None:
        """`services` are by their full names; `targets` too, or by `pkg.v1.Service/host` for one that many host."""
        by_target: dict[str, list[ServiceDescriptor]] = {}
        for backend, target in targets.items():
            by_target.setdefault(target, []).append(services[service_of(backend)])
        channels = {
            target: connect(target, tracing=tracing, services=behind, timeout=timeout)
            for target, behind in by_target.items()
        }
        self._channels: Mapping[str, grpc.aio.Channel] = channels
        self._targets = targets

    def unary(self, service: str, method: str) -> Call:
        """Return what calls a method with one request and one answer, both encoded."""
        return self._unary(service, f"/{service}/{method}")

    def stream(self, service: str, method: str) -> StreamCall:
        """Return what calls a method with one request and a stream of answers, all encoded."""
        return self._stream(service, f"/{service}/{method}")

    def hosted(
        self, service: str, method: str, request: type[Message], field: str, *, streams: bool = False
    ) -> Call | StreamCall:
        """Return what calls a method of a service that many host: at the one which `field` of the request names.

        It raises `Refusal` (404) for a host without a backend, which says to callers with a token what there is: it
        is the services that see whether one is good.
        """
        hosts = {host: key for key in self._targets for name, _, host in [key.partition("/")] if name == service}
        make: Callable[[str, str], Callable[..., Any]] = self._stream if streams else self._unary
        calls = {host: make(key, f"/{service}/{method}") for host, key in hosts.items()}

        def call(encoded: bytes, **options: Any) -> Any:
            host = getattr(request.FromString(encoded), field)
            if (found := calls.get(host)) is None:
                known = ", ".join(sorted(calls))
                _log.debug("no backend has this host", service=service, host=host, known=known)
                told = any(name == "authorization" for name, _ in options["metadata"])
                message = f"there is no {field} {host!r}" + (f": there are {known}" if told else "")
                raise refusal(404, grpc.StatusCode.NOT_FOUND, "HOST_NOT_FOUND", message)
            return found(encoded, **options)

        return call

    def _unary(self, backend: str, path: str) -> Call:
        call: Call = self._channels[self._targets[backend]].unary_unary(path)
        return call

    def _stream(self, backend: str, path: str) -> StreamCall:
        call: StreamCall = self._channels[self._targets[backend]].unary_stream(path)
        return call

    def health_checks(self) -> Iterator[tuple[Call, list[str]]]:
        """Give, for each address, what asks the standard health service there, and the names of its backends."""
        by_target: dict[str, list[str]] = {}
        for backend, target in self._targets.items():
            by_target.setdefault(target, []).append(backend)
        for behind in by_target.values():
            yield self._unary(behind[0], "/grpc.health.v1.Health/Check"), behind

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def service_of(backend: str) -> str:
    """Return the service of a backend: of `pkg.v1.Service/host` what comes before the slash."""
    return backend.partition("/")[0]


def check_hosts(backends: Mapping[str, str], hosted_by: Mapping[str, str]) -> None:
    """Check that services which many host, and no others, have a backend for each host.

    `hosted_by` has the field that says which, by the service. Raises `CannotStart`.
    """
    for backend, target in backends.items():
        service, slash, host = backend.partition("/")
        if service in hosted_by and not slash:
            raise CannotStart(
                f"WEFT_GATEWAY_BACKENDS: {service} has many hosts, and the field {hosted_by[service]} of a request "
                f"says which is meant: write {service}/NAME={target}, once for each name"
            )
        if slash and service not in hosted_by:
            raise CannotStart(
                f"WEFT_GATEWAY_BACKENDS: {service} has one host, as it lacks the option weftapi.v1.hosted_by: write "
                f"{service}={target} without /{host}, and for several instances ipv4:host:port,host:port"
            )
