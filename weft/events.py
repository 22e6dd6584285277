"""Events on the wire: names of streams and subjects, and CloudEvents 1.0 headers in NATS' binary mode.

See the CloudEvents NATS protocol binding 1.0.2: attributes are headers with the prefix `ce-`, the body is the
protobuf message itself.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from weft.clock import from_micros
from weft.domain import is_id
from weft.tracing import TraceContext
from weft.wire import HeaderLines, encode
from weft.work import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

CORRELATION = "weft-correlation-id"
CAUSATION = "weft-causation-id"

FORMER_LIFE = 2**40
"""More than the numbers that a stream gives in its life: those of letters from its former lives are lower by that."""


@cache
def context_of(type_name: str) -> str:
    """Return the context that owns an event type: `commerce.order` of `commerce.order.v1.OrderCreated`."""
    return ".".join(type_name.split(".")[:-2])


def stream_of(context: str) -> str:
    """Return the name of a context's stream: `COMMERCE_ORDER` of `commerce.order`."""
    return context.upper().replace(".", "_")


def subject_of(type_name: str, aggregate_id: str) -> str:
    """Return the subject of an event; `*` as the id makes the filter for all of its type."""
    return f"{type_name}.{aggregate_id}"


def headers_of(
    source: str,
    type_name: str,
    event_id: str,
    aggregate_id: str,
    time: int,
    traceparent: str,
    tracestate: str,
    correlation_id: str,
    causation_id: str,
) -> HeaderLines:
    """Return the headers of an event that the service `source` publishes; `time` in microseconds."""
    lines = (
        f"Nats-Msg-Id: {event_id}\r\nce-id: {event_id}\r\nce-subject: {aggregate_id}\r\n"
        f"ce-time: {_rfc3339(time)}\r\n{CORRELATION}: {correlation_id}\r\n"
    )
    if causation_id:
        lines += f"{CAUSATION}: {causation_id}\r\n"
    if traceparent:
        lines += f"traceparent: {traceparent}\r\n"
    if tracestate:
        lines += f"tracestate: {tracestate}\r\n"
    return HeaderLines(_common_headers(type_name, source) + lines.encode())


@cache
def _common_headers(type_name: str, source: str) -> HeaderLines:
    """Return what all events of a type have in common."""
    return encode(
        {
            "ce-specversion": "1.0",
            "ce-type": type_name,
            "ce-source": source,
            "ce-dataschema": f"proto:{type_name}",
            "content-type": "application/protobuf",
        }
    )


@lru_cache(maxsize=64)
def _rfc3339(time: int) -> str:
    # All events of a transaction have the same time.
    return from_micros(time).isoformat(timespec="microseconds").replace("+00:00", "Z")


def number_in(seq: int) -> int:
    """Return the number that a message had in its stream, whichever life of it that was."""
    return seq % FORMER_LIFE


_EVENT_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Malformed(Exception):
    """The message is no CloudEvent with a protobuf body that this service knows; the text says what is wrong."""


class Delivery(NamedTuple):
    """One message from a stream, as it came: `seq` is its number in the stream, or as a letter's row has it."""

    stream: str
    seq: int
    subject: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        """The CloudEvent's id; a message without a usable one is named by its place in the stream and its body."""
        given = self.headers.get("ce-id", "")
        return given if _EVENT_ID.fullmatch(given) else f"{self.stream}:{number_in(self.seq)}:{crc32(self.body):08x}"

    @property
    def type(self) -> str:
        """The event's type, as the header says."""
        return self.headers.get("ce-type", "")

    @property
    def key(self) -> str:
        """The id of the aggregate, whose events are handled in order."""
        return self.subject.rpartition(".")[2]

    @property
    def origin(self) -> Origin:
        """What follows from handling it goes back to this."""
        headers = self.headers
        trace = TraceContext.of(headers.get("traceparent", ""), headers.get("tracestate", ""))
        correlation = headers.get(CORRELATION, "")
        return Origin(trace, correlation if _EVENT_ID.fullmatch(correlation) else self.key, self.event_id)

    def check(self) -> None:
        """Raise `Malformed` unless the attributes that every event must have are there and agree."""
        for name in ("ce-id", "ce-type", "ce-subject"):
            if not _EVENT_ID.fullmatch(self.headers.get(name, "")):
                raise Malformed(f"the header {name} is missing, or not 1 to 128 printable characters")
        if not is_id(self.headers["ce-subject"]):
            raise Malformed("the header ce-subject is no id: it must match [A-Za-z0-9_-]{1,64}")
        if self.subject != subject_of(self.type, self.headers["ce-subject"]):
            raise Malformed(
                f"the subject is not {subject_of(self.type, self.headers['ce-subject'])}, as the headers say"
            )
