"""Server-streaming methods over HTTP, from the first message, or the error in its place, to the end.

A stream is read as fast as its client takes it, and no faster: the next message is asked for when the one before is
sent. Whatever ends it in mid-stream is told to the client, in the way of its format. The backend's call ends with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf.message import DecodeError

from gateway.errors import Refusal, retry_later
from gateway.http.answers import BASE_HEADERS, CutOff, Response, Streamed
from weft.tasks import end

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from gateway.backends import StreamCall
    from gateway.errors import ErrorWriter
    from gateway.http.answers import Header
    from gateway.records import Metrics
    from gateway.streaming.formats import Format, Formats
    from gateway.streaming.positions import Resume

    Explain = Callable[[Exception], Refusal]
    """Makes of what ended a stream what its client is told."""

_MOMENT = 1.0
"""Seconds in which a first message, or an error, is waited for before the answer begins without it."""
_EOF: Any = grpc.aio.EOF
_NOT_JSON = BASE_HEADERS[1:]
_UNBUFFERED: Header = (b"x-accel-buffering", b"no")
"""Has nginx pass on what it gets, at once."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How the server stream of a route is served."""

    call: StreamCall
    decode: Callable[[bytes], Message]
    formats: Formats
    resume: Resume | None
    """None for requests that cannot say where to go on."""
    takes_token: bool
    """Whether the token may be in the query."""


class Streams:
    """The streams that are open in one gateway."""

    def __init__(self, errors: ErrorWriter, metrics: Metrics, *, heartbeat: float, most: int, most_of_one: int) -> None:
        """A format that has heartbeats sends one after `heartbeat` seconds of silence.

        `most` may be open at once, `most_of_one` of them for the same caller.
        """
        self.errors = errors
        self.metrics = metrics
        self.heartbeat = heartbeat
        self._most = most
        self._most_of_one = most_of_one
        self._open: dict[Stream, str] = {}
        """Whose each is."""
        self._of = Counter[str]()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        """End all streams, and those that begin from now on: their clients are asked to come again."""
        self._stopped = True
        for stream in self._open:
            stream.stop()

    async def open(self, stream: Stream, who: str, *, resumed: bool) -> Response | Streamed:
        """Return the answer that a stream makes; whoever sends it closes it. `who` is whose it is, if that is known.

        One that goes on where another was cut off, and has no more to say, is 204: this stops an EventSource, which
        would come back for ever. Raises what the stream fails with in place of a first message, and `Refusal` if too
        many are open.
        """
        if len(self._open) >= self._most:
            raise retry_later("TOO_MANY_STREAMS", "too many streams are open: try again")
        if who and self._of[who] >= self._most_of_one:
            raise retry_later("TOO_MANY_STREAMS", "too many streams of yours are open: close some")
        self._add(stream, who)
        try:
            if self._stopped:
                stream.stop()
            await stream.begin()
        except BaseException:
            await stream.aclose()
            raise
        if stream.is_empty and resumed:
            await stream.aclose()
            return Response(204, _NOT_JSON, b"")
        return _begun(stream)

    def fail(self, stream: Stream, error: Exception) -> Streamed:
        """Return the answer of a stream that tells of an error and ends, in place of a refusal."""
        stream.fail(error)
        return _begun(stream)

    def _add(self, stream: Stream, who: str) -> None:
        self._open[stream] = who
        self._of[who] += 1
        self.metrics.tell_streams(len(self._open))

    def discard(self, stream: Stream) -> None:
        """Count a stream no more, if it was counted."""
        who = self._open.pop(stream, None)
        if who is not None:
            self._of[who] -= 1
            if not self._of[who]:
                del self._of[who]
        self.metrics.tell_streams(len(self._open))


def _begun(stream: Stream) -> Streamed:
    return Streamed(200, [(b"content-type", stream.content_type), *_NOT_JSON, _UNBUFFERED], stream)


def is_passing(error: Exception) -> bool:
    """Tell whether an error says to come again."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return isinstance(error, Refusal) and error.http == HTTPStatus.SERVICE_UNAVAILABLE


class Stream:
    """One stream: the parts of its body, one after another."""

    def __init__(
        self,
        streams: Streams,
        call: Callable[[], grpc.aio.UnaryStreamCall[bytes, bytes]],
        decode: Callable[[bytes], Message],
        format: Format,
        route: str,
        explain: Explain,
    ) -> None:
        """`call` begins the backend's call; `route` is what it is counted as."""
        self.content_type = b""
        self.is_empty = False
        """Whether it ended, within the moment that is waited for, without a message."""
        self._streams = streams
        self._begin = call
        self._call: grpc.aio.UnaryStreamCall[bytes, bytes] | None = None
        self._decode = decode
        self._format = format
        self._route = route
        self._explain = explain
        self._first = b""
        self._ended = False
        self._reading: asyncio.Task[Any] | None = None
        self._stopped = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """End it at the next occasion, with an error that says to come again."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def begin(self) -> None:
        """Wait for the first message, but not for long: the headers of a quiet stream are to go out soon."""
        self._call = self._begin()
        read = await self._read(_MOMENT if self._format.begins_without else None)
        self._ended = self.is_empty = read is _EOF
        first = None if read is None or read is _EOF else self._message(read)
        self.content_type = self._format.content_type(first)
        self._first = self._format.opening + (b"" if first is None else self._format.write(first))

    def fail(self, error: Exception) -> None:
        """Have an error for all that it says."""
        self._ended = True
        self.content_type = self._format.content_type(None)
        self._first = self._format.opening + self._told(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next part. Raises `CutOff` for an error which the format cannot tell of."""
        if self._first:
            part, self._first = self._first, b""
            return part
        if self._ended:
            raise StopAsyncIteration
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._ended = True
            return self._told(error)

    async def aclose(self) -> None:
        """End the backend's call."""
        self._streams.discard(self)
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            await end(self._reading)

    async def _next(self) -> bytes:
        read = await self._read(self._streams.heartbeat if self._format.heartbeat else None)
        if read is None:
            return self._format.heartbeat
        if read is _EOF:
            self._ended = True
            raise StopAsyncIteration
        return self._format.write(self._message(read))

    async def _read(self, seconds: float | None) -> Any:
        """Return the next message as it is encoded, `_EOF`, or None if there is neither within `seconds`.

        Raises `AioRpcError`, and `Refusal` when the gateway stops.
        """
        if self._reading is None:
            assert self._call is not None
            self._reading = asyncio.ensure_future(self._call.read())
        waits = (self._reading, self._stopped)
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            raise retry_later("STOPPING", "the gateway stops: come again")
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    def _told(self, error: Exception) -> bytes:
        told = self._format.write_error(self._streams.errors.write(self._explain(error).status))
        if told is None:
            raise CutOff from error
        return told

    def _message(self, encoded: bytes) -> Message:
        try:
            message = self._decode(encoded)
        except DecodeError as error:
            raise RuntimeError(f"a message of {self._route} is not as the descriptors say") from error
        self._streams.metrics.tell_message(self._route)
        return message
