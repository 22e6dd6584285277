"""The services behind a gateway: one channel to each address, and calls with bytes as they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from weft import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import grpc
    from google.protobuf.descriptor import ServiceDescriptor

    from weft import Tracing

    Call = Callable[..., Awaitable[bytes]]
    """Called with the encoded request, `timeout` in seconds and `metadata`; raises `AioRpcError`."""


class Backends:
    """Channels to the services; they connect when they are first used, and are found again when they come back."""

    def __init__(
        self, targets: Mapping[str, str], services: Mapping[str, ServiceDescriptor], *, tracing: Tracing, timeout: float
    ) -> None:
        """`targets` and `services` are by the full names of the services."""
        by_target: dict[str, list[ServiceDescriptor]] = {}
        for name, target in targets.items():
            by_target.setdefault(target, []).append(services[name])
        channels = {
            target: connect(target, tracing=tracing, services=behind, timeout=timeout)
            for target, behind in by_target.items()
        }
        self._channels: Mapping[str, grpc.aio.Channel] = channels
        self._targets = targets

    def unary(self, service: str, method: str) -> Call:
        """Return what calls a method with one request and one answer, both encoded."""
        channel = self._channels[self._targets[service]]
        call: Call = channel.unary_unary(f"/{service}/{method}")
        return call

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
