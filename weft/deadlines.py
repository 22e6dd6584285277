"""The moment by which the call in progress must be answered, for whoever calls on from it."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import Token

_deadline: ContextVar[float] = ContextVar("weft_deadline")


def remaining() -> float | None:
    """Return how many seconds the call in progress has left (0 when it is late); None outside of a call."""
    deadline = _deadline.get(None)
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def within(seconds: float) -> _Within:
    """Give what runs within the `with` this long; never longer than what is left already."""
    return _Within(time.monotonic() + seconds)


class _Within:
    __slots__ = ("_deadline", "_token")
    _token: Token[float]

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        outer = _deadline.get(None)
        self._token = _deadline.set(self._deadline if outer is None else min(outer, self._deadline))

    def __exit__(self, *_: object) -> None:
        _deadline.reset(self._token)
