"""Another service that order asks first, and does without while it does not answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import grpc

from weft import CircuitBreaker, deadlines, logs
from weft.domain import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

Reply = TypeVar("Reply")

_log = logs.logger("order.upstream")


class Upstream:
    """A service behind order, with a circuit breaker."""

    def __init__(self, name: str, timeout: float = 1.0) -> None:
        """Wait for `name` for at most `timeout` seconds."""
        self._name = name
        self._timeout = timeout
        self._breaker = CircuitBreaker(name)

    async def ask(self, method: Callable[..., Awaitable[Reply]], request: Message) -> Reply | None:
        """Return the reply of a stub's method; None if there is none to be had now."""
        left = deadlines.remaining()
        try:
            # The other half of the caller's time is for going on without an answer. A call that is cut short by it
            # is cancelled, which tells the breaker nothing: it is the caller who is in a hurry.
            async with asyncio.timeout(None if left is None else left / 2):
                with self._breaker.attempt():
                    return await method(request, timeout=self._timeout)
        except (grpc.aio.AioRpcError, Unavailable, TimeoutError) as error:
            why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error) or "a hurried caller"
            _log.warning("a service does not answer: what order remembers counts", asked=self._name, cause=why)
            return None
