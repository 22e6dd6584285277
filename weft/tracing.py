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
import random
import re
import sys
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)

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

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e]{0,512}")
_KNOWN_FLAGS = 0x03
_UNSAMPLED_ROOT = "02"
"""The trace id is random (W3C Trace Context, level 2), and the trace is not sampled."""
_NOWHERE = Context()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace, as W3C Trace Context writes it. Empty, and false, where there is no trace.

    The constructor trusts its arguments, as those of rows that were written here; `of` is for what comes from
    outside.
    """

    traceparent: str = ""
    tracestate: str = ""

    @classmethod
    def of(cls, traceparent: str, tracestate: str = "") -> Self:
        """Read what a caller sent. A malformed traceparent gives the empty context, as the standard asks.

        A tracestate that is over 512 characters or not printable ASCII is left out.
        """
        match = _TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= 512 else None
        if match is None or (match[5] and match[1] == "00"):  # Only later versions may have more to say.
            return cls()
        flags = int(match[4], 16) & _KNOWN_FLAGS
        kept = tracestate if _TRACESTATE.fullmatch(tracestate) else ""
        return cls(f"00-{match[2]}-{match[3]}-{flags:02x}", kept)

    @classmethod
    def of_span(cls, span: Span) -> Self:
        """Return the place of `span`."""
        at = span.get_span_context()
        if not at.is_valid:
            return cls()
        ids = f"{format_trace_id(at.trace_id)}-{format_span_id(at.span_id)}"
        return cls(f"00-{ids}-{at.trace_flags:02x}", at.trace_state.to_header() if at.trace_state else "")

    @classmethod
    def root(cls) -> Self:
        """Begin an unsampled trace with a new random id."""
        trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
        return cls(f"00-{trace_id:032x}-{span_id:016x}-{_UNSAMPLED_ROOT}")

    def __bool__(self) -> bool:
        return self.traceparent != ""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, or nothing."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits, or nothing."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether the trace's spans are recorded."""
        return self.traceparent[-1:] in ("1", "3")

    def span_context(self) -> SpanContext:
        """Return it as OpenTelemetry has it."""
        return SpanContext(
            int(self.trace_id or "0", 16),
            int(self.span_id or "0", 16),
            is_remote=True,
            trace_flags=TraceFlags(int(self.traceparent[53:] or "0", 16)),
            trace_state=TraceState.from_header([self.tracestate]) if self.tracestate else None,
        )


class _Elsewhere(NonRecordingSpan):
    """A span that was recorded elsewhere, or not at all; parsed only when OpenTelemetry asks."""

    def __init__(self, place: TraceContext) -> None:
        self.place = place

    def get_span_context(self) -> SpanContext:
        return self.place.span_context()


def _below(place: TraceContext, parent: TraceContext | None) -> Span:
    if place and parent is None:
        return get_current_span()
    return _Elsewhere(place or TraceContext.root())


def _context_of(place: TraceContext) -> Context:
    return set_span_in_context(_Elsewhere(place), _NOWHERE) if place else _NOWHERE


class _Resumed:
    """Makes a context current for the length of a `with`."""

    __slots__ = ("_context", "_token")
    _token: Token[Context]

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = attach(self._context)

    def __exit__(self, *_: object) -> None:
        detach(self._token)


class _OpenSpan:
    """Makes a span current for the length of a `with`, and ends it."""

    __slots__ = ("_context", "_recorded", "_reports", "_span", "_token")
    _token: Token[Context]

    def __init__(self, span: Span, context: Context, *, reports: bool) -> None:
        self._span = span
        self._context = context
        self._recorded = span.is_recording()
        self._reports = reports

    def __enter__(self) -> Span:
        self._token = attach(self._context)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        detach(self._token)
        if not self._recorded:
            return
        if self._reports and isinstance(error, Exception):
            self._span.record_exception(error)
            self._span.set_status(StatusCode.ERROR, type(error).__name__)
        self._span.end()


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
        span = get_current_span()
        return span.place if type(span) is _Elsewhere else TraceContext.of_span(span)

    @staticmethod
    def resumed(place: TraceContext) -> _Resumed:
        """Make `place` current within the `with`; an empty one means no trace."""
        return _Resumed(_context_of(place))

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
        if self._tracer is None or (place and not place.sampled and self._follows_caller):
            return _below(place, parent)
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
        span = self.start_span(name, kind=kind, attributes=attributes, parent=parent, links=links)
        if parent is None and not span.is_recording() and get_current_span() is span:
            return nullcontext(span)
        return _OpenSpan(span, set_span_in_context(span, _NOWHERE), reports=reports)

    async def close(self, timeout: float = 5.0) -> None:
        """Export what is left, for at most `timeout` seconds; the collector may be down."""
        if self._provider is None:
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        thread = threading.Thread(target=_shut_down, args=(self._provider, loop, done), daemon=True)
        thread.start()
        try:
            await asyncio.wait_for(done.wait(), timeout)
        except TimeoutError:
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
