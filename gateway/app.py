"""The application: one HTTP request after another, from its path to its answer.

A path is a page of the gateway's own (`pages`) or a route. A request on a route is admitted (`admission`), read
(`mapping`), sent to its backend, and what comes back is written; whatever refuses it on the way raises a `Refusal`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from gateway.answers import BASE_HEADERS, Response
from gateway.errors import (
    HTTP_STATUS,
    ErrorWriter,
    Refusal,
    error_id_of,
    headers_of,
    internal,
    invalid,
    refusal,
    renamed,
    retry_later,
    status_of,
)
from gateway.records import NOBODY_LISTENS, Metrics, Record
from gateway.requests import Headers
from gateway.router import Found
from weft.domain import new_id
from weft.tracing import SpanKind, TraceContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.rpc.status_pb2 import Status
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    from gateway.admission import Admission
    from gateway.answers import Header
    from gateway.mapping import Mapping
    from gateway.pages import Page, Pages
    from gateway.router import Router
    from gateway.routes import Route
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
        timeout: float,
        max_timeout: float,
        max_calls: int,
    ) -> None:
        """Times are in seconds; `max_calls` is how many may be in progress at once."""
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
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._max_calls = max_calls
        self._calls = 0

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        self.arrived += 1
        record = Record(scope)
        try:
            try:
                response = await self._respond(scope, record, receive)
            except asyncio.CancelledError:
                if not self.closing:
                    raise
                message = "the gateway stops, and this took too long: try again"
                response = self._refused(record, retry_later("STOPPING", message))
            record.status = response.status
            await _send(send, response, last=self.closing)
        except (asyncio.CancelledError, _Gone):
            record.status = NOBODY_LISTENS
        finally:
            record.tell(self._metrics)

    async def _respond(self, scope: HTTPScope, record: Record, receive: ASGIReceiveCallable) -> Response:
        try:
            found = self._find(scope)
            if not isinstance(found, Found):
                return await found(scope)
            route = record.route = found.route
            headers = Headers(scope["headers"])
        except Refusal as error:
            return self._refused(record, error)
        record.token_sent = headers.has_token
        caller = TraceContext.of(headers.traceparent, headers.tracestate)
        with self._tracing.span(
            route.span, kind=SpanKind.SERVER, attributes=route.attributes, parent=caller, reports=False
        ) as span:
            record.place = self._tracing.current()
            response = await self._answer(scope, record, found, headers, receive)
            if span.is_recording():
                record.finish(span, response.status)
        return response

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
    ) -> Response:
        try:
            record.told = await self._admission.admit(found.route, headers, scope)
            encoded = await self._request(scope, found, headers, receive)
            return Response(200, [*BASE_HEADERS, *record.told], await self._call(found.route, encoded, headers))
        except grpc.aio.AioRpcError as error:
            return self._failed(record, found.route.mapping, error)
        except Refusal as error:
            return self._refused(record, error)
        except _Gone:
            raise
        except Exception as error:
            record.error, record.error_id = error, new_id()
            return self._refused(record, internal(record.error_id))

    @staticmethod
    async def _request(scope: HTTPScope, found: Found[Route], headers: Headers, receive: ASGIReceiveCallable) -> bytes:
        if found.route.call is None:
            message = f"{found.route.rpc} has streams, which this gateway does not serve: call it over gRPC"
            raise refusal(501, grpc.StatusCode.UNIMPLEMENTED, "STREAMS_NOT_SERVED", message)
        body = await _body(receive)
        if body and not headers.is_json:
            message = "the body must be JSON: send it with Content-Type: application/json"
            raise refusal(415, grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", message)
        return found.route.mapping.request(found.segments, scope["query_string"], body)

    async def _call(self, route: Route, encoded: bytes, headers: Headers) -> bytes:
        assert route.call is not None
        if self._calls >= self._max_calls:
            raise retry_later("TOO_MANY_CALLS", "too many calls are in progress: try again")
        timeout = headers.timeout(self._timeout, self._max_timeout)
        self._calls += 1
        try:
            reply = await route.call(encoded, timeout=timeout, metadata=headers.metadata)
        finally:
            self._calls -= 1
        try:
            return route.encode(route.decode(reply))
        except (DecodeError, TypeError) as error:
            raise RuntimeError(f"the answer of {route.rpc} is not as the descriptors say") from error

    def _failed(self, record: Record, mapping: Mapping, error: grpc.aio.AioRpcError) -> Response:
        status = renamed(status_of(error), mapping.descriptor, mapping.body)
        record.error_id = error_id_of(status)
        record.cause = f"{error.code().name}: {error.details()}"
        return self._written(record, HTTP_STATUS.get(status.code, 500), status)

    def _refused(self, record: Record, error: Refusal) -> Response:
        return self._written(record, error.http, error.status, error.headers)

    def _written(self, record: Record, http: int, status: Status, more: Sequence[Header] = ()) -> Response:
        headers = [*BASE_HEADERS, *record.told, *headers_of(status, token_sent=record.token_sent), *more]
        return Response(http, headers, self._errors.write(status))


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


async def _send(send: ASGISendCallable, response: Response, *, last: bool) -> None:
    """Send an answer; the `last` one of its connection says so."""
    fields = [*response.headers, (b"content-length", str(len(response.body)).encode())]
    if last:
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": fields, "trailers": False})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


def _wrong_method(method: str, allowed: Sequence[str]) -> Refusal:
    shown = ", ".join(allowed)
    message = f"this path does not take {method[:20]}: it takes {shown}"
    headers = [(b"allow", shown.encode())]
    return refusal(405, grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", message, headers=headers)
