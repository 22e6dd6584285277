"""The application: one HTTP request after another, from its path to its answer.

A path is a page of the gateway's own (`pages`) or a route. A request on a route is admitted (`admission`), read
(`mapping`), sent to its backend, and what comes back is written; whatever refuses it on the way raises a `Refusal`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code

from gateway.admission.query_token import moved
from gateway.errors import (
    ErrorWriter,
    Refusal,
    error_id_of,
    headers_of,
    http_status_of,
    internal,
    invalid,
    refusal,
    renamed,
    retry_later,
    status_of,
)
from gateway.http.answers import BASE_HEADERS, CutOff, Response, Streamed, send_parts, send_whole
from gateway.http.compression import compressed
from gateway.http.requests import NONE, Headers, header
from gateway.records import NOBODY_LISTENS, Metrics, Record
from gateway.routing.router import Found
from gateway.streaming.streams import Stream, is_passing
from weft.domain import new_id
from weft.tracing import SpanKind, TraceContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    from gateway.admission.gate import Admission
    from gateway.http.answers import Header
    from gateway.messages.mapping import Mapping as Binding
    from gateway.pages import Page, Pages
    from gateway.routes import Route
    from gateway.routing.router import Router
    from gateway.streaming.streams import Streams
    from weft import Tracing


class App:
    """The ASGI application of one gateway."""

    def __init__(
        self,
        router: Router[Route],
        pages: Pages,
        admission: Admission,
        errors: ErrorWriter,
        *,
        tracing: Tracing,
        metrics: Metrics,
        streams: Streams,
        timeout: float,
        max_timeout: float,
        stream_timeout: float,
        idle: float,
        max_calls: int,
        passed: Mapping[bytes, str] = NONE,
        gzip: bool = False,
    ) -> None:
        """Times are in seconds: of calls, of streams, and in which a client must take the next part of a stream.

        `max_calls` is how many may be in progress at once, streams among them.
        `passed` are headers that pass on besides, by the names of the metadata that they become.
        """
        self.closing = False
        """Set when the gateway stops: then each answer is the last one of its connection."""
        self.arrived = 0
        """How many requests have come so far."""
        self._router = router
        self._pages = pages
        self._admission = admission
        self._errors = errors
        self._tracing = tracing
        self._metrics = metrics
        self._streams = streams
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._stream_timeout = stream_timeout
        self._idle = idle
        self._max_calls = max_calls
        self._calls = 0
        self._passed = passed
        self._gzip = gzip

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        self.arrived += 1
        record = Record(scope)
        try:
            try:
                await self._respond(scope, record, receive, send)
            except asyncio.CancelledError:
                if not self.closing:
                    raise
                if record.status != NOBODY_LISTENS:
                    raise CutOff from None
                message = "the gateway stops, and this took too long: try again"
                await self._send(scope, record, send, self._refused(record, retry_later("STOPPING", message)))
        except (asyncio.CancelledError, _Gone):
            record.status = NOBODY_LISTENS
        finally:
            record.tell(self._metrics)

    async def _respond(
        self, scope: HTTPScope, record: Record, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        try:
            found = self._find(scope)
            if not isinstance(found, Found):
                return await self._send(scope, record, send, await found(scope))
            route = record.route = found.route
            if route.streaming is not None and route.streaming.takes_token:
                scope = moved(scope)
            headers = Headers(scope["headers"], self._passed)
        except Refusal as error:
            return await self._send(scope, record, send, self._refused(record, error))
        record.request_id = headers.request_id
        record.token_sent = headers.has_token
        record.guarded = headers.if_match is not None
        caller = TraceContext.of(headers.traceparent, headers.tracestate)
        with self._tracing.span(
            route.span, kind=SpanKind.SERVER, attributes=route.attributes, parent=caller, reports=False
        ) as span:
            record.place = self._tracing.current()
            try:
                response = await self._answer(scope, record, found, headers, receive)
                await self._send(scope, record, send, response)
            finally:
                if span.is_recording():
                    record.finish(span)

    def _find(self, scope: HTTPScope) -> Found[Route] | Page:
        """Return the route of a request, or the page. Raises `Refusal` where there is none."""
        path, method = scope["raw_path"].decode("ascii"), scope["method"]
        try:
            found = self._router.find(method, path)
        except ValueError as error:
            raise invalid([("", f"the path cannot be read: {error}")]) from error
        if isinstance(found, Found):
            return found
        if (page := self._pages.find(path)) is not None:
            if method in ("GET", "HEAD"):
                return page
            raise _wrong_method(method, ("GET", "HEAD"))
        if found is not None:
            raise _wrong_method(method, found.allowed)
        message = "there is no such path: GET / lists what there is"
        raise refusal(404, grpc.StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND", message)

    async def _answer(
        self, scope: HTTPScope, record: Record, found: Found[Route], headers: Headers, receive: ASGIReceiveCallable
    ) -> Response | Streamed:
        try:
            admitted = await self._admission.admit(found.route, headers, scope)
            record.told = admitted.told
            encoded = await self._request(scope, found, headers, receive)
            encoded = found.route.guard.fill(encoded, scope["method"], headers)
            if found.route.streaming is not None:
                return await self._stream(scope, record, found.route, encoded, headers, admitted.who)
            return await self._call(record, found.route, encoded, headers)
        except _Gone:
            raise
        except Exception as error:
            return self._refused(record, self._explain(record, found.route.mapping, error))

    @staticmethod
    async def _request(scope: HTTPScope, found: Found[Route], headers: Headers, receive: ASGIReceiveCallable) -> bytes:
        if found.route.call is None and found.route.streaming is None:
            message = f"{found.route.rpc} takes a stream of requests, which HTTP here cannot carry: call it over gRPC"
            raise refusal(501, grpc.StatusCode.UNIMPLEMENTED, "CLIENT_STREAMS_NOT_SERVED", message)
        body = await _body(receive)
        if (raw := found.route.raw_request) is not None:
            encoded = found.route.mapping.request(found.segments, scope["query_string"], b"")
            return raw.fill(encoded, (header(scope, b"content-type") or b"").decode("latin-1"), bytes(body))
        if body and not headers.is_json:
            message = "the body must be JSON: send it with Content-Type: application/json"
            raise refusal(415, grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", message)
        return found.route.mapping.request(found.segments, scope["query_string"], body)

    def _check_calls(self) -> None:
        if self._calls + len(self._streams) >= self._max_calls:
            raise retry_later("TOO_MANY_CALLS", "too many calls are in progress: try again")

    async def _stream(
        self, scope: HTTPScope, record: Record, route: Route, encoded: bytes, headers: Headers, who: str
    ) -> Response | Streamed:
        """Open a stream of `who`. Raises what it fails with before its first message."""
        streaming, resumed = route.streaming, False
        assert streaming is not None
        format = streaming.formats.choose(header(scope, b"accept") or b"")
        last_id = header(scope, b"last-event-id")
        if streaming.resume is not None:
            encoded, resumed = streaming.resume.fill(encoded, last_id)
        timeout = headers.timeout(self._stream_timeout, self._stream_timeout)

        def call() -> grpc.aio.UnaryStreamCall[bytes, bytes]:
            return streaming.call(encoded, timeout=timeout, metadata=headers.metadata)

        def explain(error: Exception) -> Refusal:
            told = self._explain(record, route.mapping, error)
            record.broken = Code.Name(told.status.code)
            return told

        stream = Stream(self._streams, call, streaming.decode, format, route.span, explain)
        opened: Response | Streamed
        try:
            self._check_calls()
            opened = await self._streams.open(stream, who, resumed=resumed)
        except Exception as error:
            # A refusal would be the end of an EventSource that came back too soon.
            if not last_id or not format.comes_back or not is_passing(error):
                raise
            opened = self._streams.fail(stream, error)
        return opened._replace(headers=[*opened.headers, *record.told])

    async def _call(self, record: Record, route: Route, encoded: bytes, headers: Headers) -> Response:
        assert route.call is not None
        self._check_calls()
        timeout = headers.timeout(self._timeout, self._max_timeout)
        self._calls += 1
        try:
            reply = await route.call(encoded, timeout=timeout, metadata=headers.metadata)
        finally:
            self._calls -= 1
        try:
            message, raw = route.decode(reply), route.raw_reply
            encode = route.encode if raw is None else raw.data
            kind = BASE_HEADERS[0] if raw is None else (b"content-type", raw.content_type(message))
            if route.tags is None:
                return Response(200, [kind, *BASE_HEADERS[1:], *record.told], encode(message))
            tagged = route.tags.apply(message, encode, headers.if_none_match)
            if tagged.body is None:
                return Response(304, [*tagged.headers, *record.told], b"")
            return Response(200, [kind, *tagged.headers, *record.told], tagged.body)
        except (DecodeError, TypeError) as error:
            raise RuntimeError(f"the answer of {route.rpc} is not as the descriptors say") from error

    def _explain(self, record: Record, mapping: Binding, error: Exception) -> Refusal:
        """Return what a client is told of an error; the rest goes into the record."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, grpc.aio.AioRpcError):
            status = renamed(status_of(error), mapping.descriptor, mapping.body)
            record.error_id = error_id_of(status)
            record.cause = f"{error.code().name}: {error.details()}"
            return Refusal(http_status_of(status, guarded=record.guarded), status)
        record.error, record.error_id = error, new_id()
        return internal(record.error_id)

    def _refused(self, record: Record, error: Refusal) -> Response:
        more = headers_of(error.status, token_sent=record.token_sent)
        headers = [*BASE_HEADERS, *record.told, *more, *error.headers]
        return Response(error.http, headers, self._errors.write(error.status))

    async def _send(
        self, scope: HTTPScope, record: Record, send: ASGISendCallable, response: Response | Streamed
    ) -> None:
        record.status = response.status
        if isinstance(response, Response):
            if self._gzip:
                response = await compressed(scope, response)
            await send_whole(send, response, _named(record), last=self.closing)
            return
        try:
            await send_parts(send, response, _named(record), head=scope["method"] == "HEAD", seconds=self._idle)
        finally:
            await response.parts.aclose()


class _Gone(Exception):
    """The client went away before its request was whole."""


async def _body(receive: ASGIReceiveCallable) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return message["body"]
    body = bytearray()
    while message["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
    raise _Gone


def _named(record: Record) -> tuple[Header, ...]:
    return ((b"x-request-id", record.request_id.encode()),) if record.request_id else ()


def _wrong_method(method: str, allowed: Sequence[str]) -> Refusal:
    shown = ", ".join(allowed)
    message = f"this path does not take {method[:20]}: it takes {shown}"
    headers = [(b"allow", shown.encode())]
    return refusal(405, grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", message, headers=headers)
