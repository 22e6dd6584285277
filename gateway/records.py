"""How requests went: what is counted, what is logged, and what their spans say."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode
from prometheus_client import Counter, Gauge, Histogram

from weft import Tracing, logs
from weft.tracing import TraceContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Span
    from prometheus_client import CollectorRegistry
    from uvicorn._types import HTTPScope

    from gateway.http.answers import Header
    from gateway.routes import Route

NOBODY_LISTENS = 499
"""Stands for the status of a request whose client went away."""

_NAME = "weft.gateway"
_log = logs.logger(_NAME)
_levels = logging.getLogger(_NAME)
_SHOWN = 200


class Metrics:
    """What a gateway counts: requests by route and HTTP status, and their time; streams, and their messages."""

    def __init__(self, registry: CollectorRegistry) -> None:
        what = "Requests by route and HTTP status."
        self._requests = Counter("weft_gateway_requests", what, ["route", "status"], registry=registry)
        what = "How long requests took, by route."
        self._seconds = Histogram("weft_gateway_request_seconds", what, ["route"], registry=registry)
        self._streams = Gauge("weft_gateway_streams", "Streams that are open.", registry=registry)
        what = "Messages of streams that were sent on, by route."
        self._messages = Counter("weft_gateway_stream_messages", what, ["route"], registry=registry)
        self._counters: dict[tuple[str, int], Any] = {}
        self._timers: dict[str, Any] = {}

    def tell(self, route: str, status: int, seconds: float) -> None:
        """Count one answer; `route` is empty where there is none."""
        key = route, status
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(route, str(status))
            self._timers[route] = self._seconds.labels(route)
        counter.inc()
        self._timers[route].observe(seconds)

    def tell_streams(self, now: int) -> None:
        """Say how many streams are open."""
        self._streams.set(now)

    def tell_message(self, route: str) -> None:
        """Count a message of a stream."""
        self._messages.labels(route).inc()

    def tell_refused(self, status: int) -> None:
        """Count what was refused before it was a request."""
        self._requests.labels("", str(status)).inc()


class Record:
    """One request, and how it went."""

    __slots__ = (
        "_began",
        "_scope",
        "broken",
        "cause",
        "error",
        "error_id",
        "guarded",
        "place",
        "request_id",
        "route",
        "status",
        "token_sent",
        "told",
    )

    def __init__(self, scope: HTTPScope) -> None:
        self._scope = scope
        self._began = time.perf_counter()
        self.route: Route | None = None
        self.place = TraceContext()
        """Where its line belongs among traces."""
        self.status = NOBODY_LISTENS
        self.request_id = ""
        self.token_sent = False
        self.guarded = False
        """Whether it has an If-Match."""
        self.told: Sequence[Header] = ()
        """Headers of its answer, whatever that is."""
        self.error: Exception | None = None
        """What went wrong in the gateway itself."""
        self.error_id = ""
        self.broken = ""
        """The gRPC code with which its stream ended, if that was an error."""
        self.cause = ""
        """What a backend said, in words that are not for the client."""

    def finish(self, span: Span) -> None:
        """Say in the request's span how it went."""
        span.set_attribute("http.response.status_code", self.status)
        if failed := self.broken or (str(self.status) if self.status >= 500 else ""):
            span.set_attribute("error.type", failed)
            span.set_status(StatusCode.ERROR)
            if self.error is not None:
                span.record_exception(self.error)

    def tell(self, metrics: Metrics) -> None:
        """Count the request and write its line: for people who look, unless it failed."""
        seconds = time.perf_counter() - self._began
        metrics.tell("" if self.route is None else self.route.span, self.status, seconds)
        level = logging.INFO if self.status >= 500 or self.broken else logging.DEBUG
        if self.error_id:
            level = logging.ERROR if self.error is not None else logging.WARNING
        if _levels.isEnabledFor(level):
            with Tracing.resumed(self.place):
                _log.log(level, "request", **self._facts(seconds))

    def _facts(self, seconds: float) -> dict[str, object]:
        """Return what its line says: of a request without a route its path, but never a query or a header."""
        facts: dict[str, object] = {"status": self.status, "ms": round(seconds * 1e3, 3)}
        if self.route is None:
            facts |= {"method": self._scope["method"], "path": self._scope["raw_path"][:_SHOWN].decode("latin-1")}
        else:
            facts |= {"route": self.route.span, "rpc": self.route.rpc}
        if self.error is not None:
            facts["exc_info"] = self.error
        names = ("broken", "cause", "error_id", "request_id")
        return facts | {name: said for name in names if (said := getattr(self, name))}
