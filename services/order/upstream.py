"""Another service that order asks first, and does without while it does not answer."""

from __future__ import annotations

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
        try:
            with self._breaker.attempt():
                return await method(request, timeout=self._patience())
        except (grpc.aio.AioRpcError, Unavailable) as error:
            why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.warning("a service does not answer: what order remembers counts", asked=self._name, cause=why)
            return None

    def _patience(self) -> float:
        left = deadlines.remaining()
        # The other half of the caller's time is for going on without an answer.
        return self._timeout if left is None else min(self._timeout, left / 2)
