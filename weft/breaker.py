"""A circuit breaker: stop asking a service that does not answer, and try again now and then."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal, TypeVar

import grpc

from weft.domain import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

Result = TypeVar("Result")
State = Literal["closed", "open", "half-open"]

_OUTAGES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class CircuitBreaker:
    """Guards the calls to one service, on one event loop.

    Closed, it lets calls through; `threshold` outages in a row open it. Open, it refuses with `Unavailable`
    at once for `reset_after` seconds. Then it is half-open: one call is let through as a probe, the others
    are still refused; its answer closes the breaker, an outage opens it again.

    Outages are UNAVAILABLE, DEADLINE_EXCEEDED, `Unavailable`, timeouts and connection errors. Any other error
    is an answer. A cancelled call tells nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        threshold: int = 5,
        reset_after: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._threshold = threshold
        self._reset_after = reset_after
        self._now = now
        self._outages = 0
        self._opened_at: float | None = None
        self._turn = 0
        """Grows with each change of state: what was asked in an earlier turn says nothing about this one."""
        self._probing = False

    @property
    def state(self) -> State:
        """`closed`, `open` or `half-open`."""
        if self._opened_at is None:
            return "closed"
        return "open" if self._now() < self._opened_at + self._reset_after else "half-open"

    async def call(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `ask` answers. Raises `Unavailable` without asking while the breaker is open."""
        with self.attempt():
            return await ask()

    def attempt(self) -> Attempt:
        """Guard what runs within the `with`; entering it raises `Unavailable` while the breaker is open."""
        return Attempt(self)

    def _enter(self) -> int:
        state = self.state
        if state == "open" or (state == "half-open" and self._probing):
            raise Unavailable(f"{self.name} does not answer at present", retry_after=self._retry_after())
        if state == "half-open":
            self._probing = True
            self._turn += 1
        return self._turn

    def _leave(self, turn: int, error: BaseException | None) -> None:
        if turn != self._turn:
            return
        probing, self._probing = self._probing, False
        if isinstance(error, asyncio.CancelledError):
            return
        if error is None or not _is_outage(error):
            self._close(probing)
            return
        self._outages += 1
        if probing or self._outages >= self._threshold:
            self._open()

    def _open(self) -> None:
        self._opened_at = self._now()
        self._turn += 1

    def _close(self, was_open: bool) -> None:
        self._outages = 0
        self._opened_at = None
        self._turn += was_open

    def _retry_after(self) -> float:
        opened = self._now() if self._opened_at is None else self._opened_at
        return max(0.1, opened + self._reset_after - self._now())


class Attempt:
    """One guarded call; what `CircuitBreaker.attempt` returns."""

    __slots__ = ("_breaker", "_turn")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        self._turn = self._breaker._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._breaker._leave(self._turn, error)


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _OUTAGES
    return isinstance(error, Unavailable | TimeoutError | ConnectionError)
