"""What a gRPC server counts: calls by method and code, and how long they took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    Count = Callable[[str, float], None]
    """Counts one call that ended: its status code's name, and the seconds that it took."""


class CallMetrics:
    """The metrics of one server. Methods are those that it serves, so what callers send adds no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "weft_grpc_calls", "Calls that ended, by method and status code.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "weft_grpc_call_seconds", "How long calls took, by method.", ["method"], registry=registry
        )

    def of(self, method: str) -> Count:
        """Return what counts the calls of a method, by `package.Service/Method`."""
        by_code: dict[str, Callable[[], None]] = {}
        observe = self._seconds.labels(method).observe

        def count(code: str, seconds: float) -> None:
            add = by_code.get(code)
            if add is None:
                add = by_code[code] = self._calls.labels(method, code).inc
            add()
            observe(seconds)

        return count
