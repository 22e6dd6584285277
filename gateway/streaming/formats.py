"""How the messages of a server stream are written over HTTP: as server-sent events, as lines of JSON, or as they are.

Server-sent events are those of the HTML standard, so that a browser's EventSource reads them; a line of JSON for each
message is what programs read (NDJSON). A `google.api.HttpBody` is bytes of a type of its own, and is sent as that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import grpc

from gateway.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from gateway.messages.raw import RawReply

_NAMES = {
    b"text/event-stream": (b"text/event-stream",),
    b"application/x-ndjson": (b"application/x-ndjson", b"application/json"),
}
"""What an Accept may call each format."""
_RETRY = 2000
"""Milliseconds after which an EventSource that was cut off comes back."""
_NO_ID = re.compile(r"[\r\n\0]")
_QUALITY = re.compile(rb"q=([01](?:\.[0-9]{0,3})?)", re.IGNORECASE)


class Format(Protocol):
    """How one stream is written."""

    begins_without: bool
    """Whether the answer can begin before there is a message."""
    comes_back: bool
    """Whether its clients come back by themselves when they are cut off, but never when they are refused."""
    opening: bytes
    """What goes before the first message."""
    heartbeat: bytes
    """What is sent when there has been nothing for a while; nothing where that would be taken for a message."""

    def content_type(self, first: Message | None) -> bytes:
        """Return the media type of the whole; `first` is the first message, if there is one yet."""

    def write(self, message: Message) -> bytes:
        """Return what is sent of a message."""

    def write_error(self, status: bytes) -> bytes | None:
        """Return what tells of an error in mid-stream, given as JSON; None where only a cut can tell."""


class ServerSentEvents:
    """Events for an EventSource; `position` is the field of a message that is its id, if it has one."""

    begins_without = comes_back = True
    opening = b"retry: %d\n\n" % _RETRY
    heartbeat = b":\n\n"

    def __init__(self, encode: Callable[[Message], bytes], position: str) -> None:
        self._encode = encode
        self._position = position

    def content_type(self, first: Message | None) -> bytes:
        """Return the media type."""
        return b"text/event-stream"

    def write(self, message: Message) -> bytes:
        """Return an event with the message in its data, which is one line: JSON has no line breaks."""
        place = getattr(message, self._position) if self._position else ""
        name = b"" if not place or _NO_ID.search(place) else b"id: %b\n" % place.encode()
        return b"%bdata: %b\n\n" % (name, self._encode(message))

    def write_error(self, status: bytes) -> bytes:
        """Return an event `error`, whose data is the google.rpc.Status."""
        return b"event: error\ndata: %b\n\n" % status


class JsonLines:
    """A line of JSON for each message."""

    begins_without, comes_back = True, False
    opening = b""
    heartbeat = b""

    def __init__(self, encode: Callable[[Message], bytes]) -> None:
        self._encode = encode

    def content_type(self, first: Message | None) -> bytes:
        """Return the media type."""
        return b"application/x-ndjson"

    def write(self, message: Message) -> bytes:
        """Return its line."""
        return self._encode(message) + b"\n"

    def write_error(self, status: bytes) -> bytes:
        """Return the last line, an object whose only field is the google.rpc.Status `error`."""
        return b'{"error":%b}\n' % status


class Raw:
    """The bytes of each message, one after another, with the type that the first one has."""

    begins_without = comes_back = False
    opening = b""
    heartbeat = b""

    def __init__(self, raw: RawReply) -> None:
        self._raw = raw

    def content_type(self, first: Message | None) -> bytes:
        """Return the type that the first message says."""
        return self._raw.content_type(first)

    def write(self, message: Message) -> bytes:
        """Return its bytes."""
        return self._raw.data(message)

    def write_error(self, status: bytes) -> None:
        """There is nothing that could not be taken for data: the body is cut off."""


class Formats:
    """The formats in which one method can be had."""

    def __init__(self, encode: Callable[[Message], bytes], position: str, raw: RawReply | None) -> None:
        """`raw` is for a method whose messages are bytes, which then are its only format."""
        self._raw = None if raw is None else Raw(raw)
        self._formats: dict[bytes, Format] = {
            b"text/event-stream": ServerSentEvents(encode, position),
            b"application/x-ndjson": JsonLines(encode),
        }

    def choose(self, accept: bytes) -> Format:
        """Return the format that an Accept asks for (RFC 9110, 12.5.1); lines of JSON if it leaves the choice.

        Raises `Refusal` (406), which lists what there is.
        """
        if self._raw is not None:
            return self._raw
        chosen = choose(accept)
        if not chosen:
            known = " or ".join(sorted(name.decode() for name in self._formats))
            message = f"this method answers with a stream, as {known}: the header Accept must take one of them"
            raise refusal(406, grpc.StatusCode.INVALID_ARGUMENT, "NOT_ACCEPTABLE", message)
        return self._formats[chosen]


def choose(accept: bytes) -> bytes:
    """Return the media type of the format that an Accept likes best; nothing if it takes none.

    One that is asked for by name goes before one that is only not excluded, where both have the same weight.
    """
    ranges = dict(_ranges(accept)) or {b"*/*": 1.0}
    liked = {name: max(_weight(alias, ranges) for alias in aliases) for name, aliases in _NAMES.items()}
    best = max(sorted(liked), key=lambda name: liked[name])
    return best if liked[best][0] > 0 else b""


def _weight(name: bytes, ranges: dict[bytes, float]) -> tuple[float, int]:
    """Return the weight that the most specific of the ranges gives to a type, and how specific that is."""
    for specific, one in ((2, name), (1, name.partition(b"/")[0] + b"/*"), (0, b"*/*")):
        if one in ranges:
            return ranges[one], specific
    return 0.0, 0


def _ranges(accept: bytes) -> Iterator[tuple[bytes, float]]:
    for part in accept.lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        if name:
            weights = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
            yield name, float(weights[0]) if weights else 1.0
