"""W3C Trace Context as a value: what makes one order one trace, wherever it is carried."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, format_span_id, format_trace_id

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e]{0,512}")
_KNOWN_FLAGS = 0x03
_PLAIN_FLAGS = frozenset({"00", "01", "02", "03"})
_UNSAMPLED_ROOT = "02"
"""The trace id is random (W3C Trace Context, level 2), and the trace is not sampled."""


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
        match = _TRACEPARENT.fullmatch(traceparent) if 0 < len(traceparent) <= 512 else None
        if match is None or (match[5] and match[1] == "00"):  # Only later versions may have more to say.
            return cls()
        kept = tracestate if tracestate and _TRACESTATE.fullmatch(tracestate) else ""
        if match[1] == "00" and match[4] in _PLAIN_FLAGS:
            return cls(traceparent, kept)
        flags = int(match[4], 16) & _KNOWN_FLAGS
        return cls(f"00-{match[2]}-{match[3]}-{flags:02x}", kept)

    @classmethod
    def of_span(cls, span: Span) -> TraceContext:
        """Return the place of `span`."""
        if type(span) is Elsewhere:
            return span.place
        at = span.get_span_context()
        if not at.is_valid:
            return cls()
        ids = f"{format_trace_id(at.trace_id)}-{format_span_id(at.span_id)}"
        return cls(f"00-{ids}-{at.trace_flags:02x}", at.trace_state.to_header() if at.trace_state else "")

    @classmethod
    def root(cls) -> Self:
        """Begin an unsampled trace with a new random id."""
        ids = os.urandom(24).hex()
        return cls(f"00-{ids[:32]}-{ids[32:]}-{_UNSAMPLED_ROOT}")

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
    def ids(self) -> dict[str, str]:
        """Both, as lines in a log have them; nothing where there is no trace."""
        return {"trace_id": self.trace_id, "span_id": self.span_id} if self.traceparent else {}

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


class Elsewhere(NonRecordingSpan):
    """A span that was recorded elsewhere, or not at all; parsed only when OpenTelemetry asks."""

    def __init__(self, place: TraceContext) -> None:
        self.place = place

    def get_span_context(self) -> SpanContext:
        return self.place.span_context()
