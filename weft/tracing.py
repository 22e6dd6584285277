"""Traces: the context that makes one order one trace, and the spans of one service.

A `TraceContext` travels in gRPC metadata, outbox rows, message headers, timers and parked rows; whoever goes
on with the work resumes it. It exists whether the trace is sampled or not, so logs can always be joined.
Spans are recorded only where an exporter is configured, with the standard `OTEL_*` environment. Each service
has a `Tracing` of its own: nothing is global, and the OpenTelemetry SDK is imported only where it records.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    SpanKind,
    StatusCode,
    get_current_span,
    set_span_in_context,
)

from weft.tasks import happens
from weft.trace_context import Elsewhere, TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    Attributes = Mapping[str, str | int | float | bool]

__all__ = ["SpanKind", "TraceContext", "Tracing"]

_log = logging.getLogger(__name__)

_NOWHERE = Context()


def _context_of(place: TraceContext) -> Context:
    return set_span_in_context(Elsewhere(place), _NOWHERE) if place else _NOWHERE


class _Current:
    """Makes a span current for the length of a `with`."""

    __slots__ = ("_span", "_token")
    _token: Token[Context]

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def __enter__(self) -> Span:
        span = self._span
        self._token = attach(_NOWHERE if span is None else set_span_in_context(span, _NOWHERE))
        return span or INVALID_SPAN

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        detach(self._token)


class _Recorded(_Current):
    """Ends its span, too."""

    __slots__ = ("_reports",)

    def __init__(self, span: Span, *, reports: bool) -> None:
        super().__init__(span)
        self._reports = reports

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        span = self._span
        if span is None or not span.is_recording():
            return
        if self._reports and isinstance(error, Exception):
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, type(error).__name__)
        span.end()


class Tracing:
    """The traces of one service.

    Spans are exported when `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or
    `OTEL_TRACES_EXPORTER` (`otlp`, over HTTP, or `console`) is set; then `OTEL_TRACES_SAMPLER` decides, and
    everything is sampled by default. Otherwise nothing is recorded, and contexts are only passed on.
    """

    def __init__(
        self,
        service: str,
        instance: str = "",
        *,
        environ: Mapping[str, str] = os.environ,
        processors: Sequence[SpanProcessor] = (),
    ) -> None:
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None
        sampler = environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").lower()
        self._follows_caller = sampler.startswith("parentbased")
        exporters = _exporters(environ)
        if exporters or processors:
            self._provider = _provider(service, instance, exporters, processors)
            self._tracer = self._provider.get_tracer("weft")

    @staticmethod
    def current() -> TraceContext:
        """Return where we are: empty outside of any trace."""
        return TraceContext.of_span(get_current_span())

    @staticmethod
    def resumed(place: TraceContext) -> AbstractContextManager[Span]:
        """Make `place` current within the `with`; an empty one means no trace."""
        return _Current(Elsewhere(place) if place else None)

    def start_span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: TraceContext | None = None,
        links: Iterable[TraceContext] = (),
    ) -> Span:
        """Start a span below `parent`, or below the current one; the caller ends it.

        Without either it begins a trace. An unsampled span is its parent itself: there is nothing to record.
        """
        place = self.current() if parent is None else parent
        if self._tracer is None or self._skips(place):
            return get_current_span() if place and parent is None else Elsewhere(place or TraceContext.root())
        return self._tracer.start_span(
            name,
            context=None if parent is None else _context_of(parent),
            kind=kind,
            attributes=attributes,
            links=[Link(link.span_context()) for link in links if link],
        )

    def span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: TraceContext | None = None,
        links: Iterable[TraceContext] = (),
        reports: bool = True,
    ) -> AbstractContextManager[Span]:
        """Start a span as `start_span` does and make it current within the `with`, which ends it.

        An exception that leaves the `with` makes it a failed span, unless `reports` is false.
        """
        place = self.current() if parent is None else parent
        if self._tracer is not None and not self._skips(place):
            span = self.start_span(name, kind=kind, attributes=attributes, parent=parent, links=links)
            if not span.is_recording():  # Its place is written once, however often it is asked for.
                return _Current(Elsewhere(TraceContext.of_span(span)))
            return _Recorded(span, reports=reports)
        if place and parent is None:
            return nullcontext(get_current_span())
        return _Current(Elsewhere(place or TraceContext.root()))

    def _skips(self, place: TraceContext) -> bool:
        """Tell whether a span below `place` is not recorded because its caller's is not."""
        return self._follows_caller and bool(place) and not place.sampled

    async def close(self, timeout: float = 5.0) -> None:
        """Export what is left, for at most `timeout` seconds; the collector may be down."""
        if self._provider is None:
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        thread = threading.Thread(target=_shut_down, args=(self._provider, loop, done), daemon=True)
        thread.start()
        if not await happens(done, timeout):
            _log.warning("the last spans were not exported within %s s: is the collector up?", timeout)


def _shut_down(provider: TracerProvider, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    try:
        provider.shutdown()
    finally:
        with suppress(RuntimeError):  # The loop was closed: nobody waits any more.
            loop.call_soon_threadsafe(done.set)


def _exporters(environ: Mapping[str, str]) -> list[str]:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    default = "otlp" if any(environ.get(name) for name in endpoints) else "none"
    named = environ.get("OTEL_TRACES_EXPORTER") or default
    return [name for name in (part.strip() for part in named.split(",")) if name not in ("", "none")]


def _provider(
    service: str, instance: str, exporters: Sequence[str], processors: Sequence[SpanProcessor]
) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    identity = {"service.name": service, "service.instance.id": instance or service}
    provider = TracerProvider(resource=Resource.create(identity), shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    for name in exporters:
        if exporter := _exporter(name):
            provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> SpanExporter | None:
    if name == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stdout)
    _log.warning("OTEL_TRACES_EXPORTER=%s is not known here: use otlp, console or none", name)
    return None
