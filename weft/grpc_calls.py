"""What happens at the edge to every gRPC call: trace, caller, deadline, kept answers, ids in the logs, errors, metrics.

Each method is wrapped once, when its servicer is added. The wrapper is one coroutine, so nothing leaks into
another call, and a cancellation goes straight to the servicer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import StatusCode

from weft import deadlines, identity, logs
from weft.access import Door, rule_of
from weft.domain import InvalidInput, Unavailable, Violation
from weft.status import CODES, OURS, error_id_of, is_outage, status_of
from weft.tracing import SpanKind, TraceContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from google.rpc.status_pb2 import Status
    from opentelemetry.trace import Span

    from weft.call_metrics import CallMetrics, Count
    from weft.idempotency import KeptAnswers
    from weft.tokens import Verifier
    from weft.tracing import Tracing

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Behaviour = Callable[[Any, Context], Any]
    Answer = Callable[[Any, Context], Awaitable[Any]]

    _Metadata = Iterable[tuple[str, str]]

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_MOMENT = 0.05
_NAME = "weft.grpc"
_log = logs.logger(_NAME)
_levels = logging.getLogger(_NAME)


class Methods(grpc.GenericRpcHandler):
    """The methods that a server serves, by their path; stands in for the server when servicers are added."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._wrapped: dict[str, Handler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Take the methods of a generated servicer."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._wrapped[path] = self._edge.wrap(path, handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take handlers that tell only when they are asked which methods they have."""
        self._generic.extend(generic_rpc_handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Find the method of a call."""
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            found = (handler.service(handler_call_details) for handler in self._generic)
            if handler := next(filter(None, found), None):
                wrapped = self._wrapped[path] = self._edge.wrap(path, handler)
        return wrapped


class Edge:
    """Wraps methods; see the module."""

    def __init__(
        self,
        tracing: Tracing,
        verifier: Verifier,
        metrics: CallMetrics,
        default_deadline: float,
        stream_deadline: float,
        answers: KeptAnswers | None = None,
    ) -> None:
        self._tracing = tracing
        self._verifier = verifier
        self._metrics = metrics
        self._default_deadline = default_deadline
        self._stream_deadline = stream_deadline
        self._answers = answers
        self._arrived = 0
        self._going_on = 0
        self._refusing = False

    def refuse(self) -> None:
        """Answer calls that arrive from now on with UNAVAILABLE."""
        self._refusing = True

    async def quiet(self, limit: float) -> bool:
        """Wait until no call has arrived for a moment; return false if that took over `limit` seconds."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            seen = self._arrived
            await asyncio.sleep(_MOMENT)
            if seen == self._arrived:
                return True
        return False

    async def done(self, limit: float) -> None:
        """Wait until every accepted call has been answered, for at most `limit` seconds."""
        until = time.monotonic() + limit
        while self._going_on and time.monotonic() < until:  # noqa: ASYNC110 - a matter of milliseconds, mostly
            await asyncio.sleep(_MOMENT)

    def wrap(self, path: str, handler: Handler) -> Handler:
        """Return a handler for the same method that does what the edge does around `handler`."""
        serve = self._serving(path.removeprefix("/"), handler)
        # Single messages are decoded and encoded within `serve`, so that these errors are mapped too.
        decoder = handler.request_deserializer if handler.request_streaming else None
        encoder = handler.response_serializer if handler.response_streaming else None
        return _MAKERS[handler.request_streaming, handler.response_streaming](serve, decoder, encoder)

    def _serving(self, name: str, handler: Handler) -> Answer:
        tracing, attributes = self._tracing, {"rpc.system.name": "grpc", "rpc.method": name}
        default = self._stream_deadline if handler.response_streaming else self._default_deadline
        answer = _answer_of(handler)
        if self._answers is not None:
            answer = self._answers.around(name, answer)
        run = _running(name, handler, answer, default, Door(rule_of(name), self._verifier))
        count = self._metrics.of(name)

        async def serve(message: Any, context: Context) -> Any:
            self._arrived += 1
            self._going_on += 1
            call = _Call(name, count)
            place, authorization = _sent_beside(cast("_Metadata", context.invocation_metadata()))
            left = cast("float | None", context.time_remaining())
            with (
                tracing.span(name, kind=SpanKind.SERVER, attributes=attributes, parent=place, reports=False) as span,
                deadlines.within(default if left is None else left),
            ):
                try:
                    if self._refusing:
                        raise Unavailable("this instance is stopping: try again")
                    reply = await run(message, context, left, call, authorization)
                    call.code = cast("grpc.StatusCode | None", context.code()) or grpc.StatusCode.OK
                    return reply
                except grpc.aio.AbortError:
                    call.code = context.code()
                    raise
                except (asyncio.CancelledError, grpc.aio.InternalError):
                    # The caller went away, or stopped waiting; an internal error is a write that met it.
                    if left is not None and not context.time_remaining():
                        call.code = grpc.StatusCode.DEADLINE_EXCEEDED
                    raise
                except Exception as error:
                    call.error = error
                    call.status = status_of(error)
                    call.code = CODES[call.status.code]
                    await context.abort(call.code, call.status.message, _details(call.status))
                finally:
                    self._going_on -= 1
                    call.tell(span)

        return serve


def _running(name: str, handler: Handler, answer: Answer, default: float, door: Door) -> Callable[..., Awaitable[Any]]:
    decode, encode = _decoder_of(name, handler), _encoder_of(handler)

    async def run(message: Any, context: Context, left: float | None, call: _Call, authorization: str) -> Any:
        caller = await door.admit(authorization)
        request = decode(message)
        call.request = request
        with logs.BoundLater(call.ids), identity.Acting(caller):
            if left is not None:  # gRPC itself cancels this task when the caller's deadline passes.
                return encode(await answer(request, context))
            async with asyncio.timeout(default):
                return encode(await answer(request, context))

    return run


def _sent_beside(metadata: _Metadata) -> tuple[TraceContext, str]:
    """Return what the caller sent besides the message: its place in a trace, and its `authorization`."""
    parent, states, authorization = "", [], ""
    for key, value in metadata:
        if key == "traceparent":
            parent = value
        elif key == "tracestate":
            states.append(value)
        elif key == "authorization":
            authorization = value
    return TraceContext.of(parent, ",".join(states)), authorization


def _answer_of(handler: Handler) -> Answer:
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if inspect.iscoroutinefunction(behaviour):
        return cast("Answer", behaviour)
    return partial(_write_all if handler.response_streaming else _call, behaviour)


async def _call(behaviour: Behaviour, request: Any, context: Context) -> Any:
    reply = behaviour(request, context)
    return await reply if inspect.isawaitable(reply) else reply


async def _write_all(behaviour: Behaviour, request: Any, context: Context) -> None:
    async with aclosing(behaviour(request, context)) as replies:
        async for reply in replies:
            await context.write(reply)


def _decoder_of(name: str, handler: Handler) -> Callable[[Any], Any]:
    decode = handler.request_deserializer
    if decode is None or handler.request_streaming:
        return _as_it_is

    def decoded(message: bytes) -> Any:
        try:
            return decode(message)
        except DecodeError as error:
            raise InvalidInput(Violation("request", f"cannot be decoded as the request of {name}")) from error

    return decoded


def _encoder_of(handler: Handler) -> Callable[[Any], Any]:
    return (not handler.response_streaming and handler.response_serializer) or _as_it_is


def _as_it_is(message: Any) -> Any:
    return message


def _details(status: Status) -> tuple[tuple[str, bytes], ...]:
    return (("grpc-status-details-bin", status.SerializeToString()),)


class _Call:
    """How one call went."""

    __slots__ = ("_began", "_count", "_name", "code", "error", "request", "status")

    def __init__(self, name: str, count: Count) -> None:
        self._name = name
        self._count = count
        self._began = time.perf_counter()
        self.code: grpc.StatusCode = grpc.StatusCode.CANCELLED
        self.request: Any = None
        self.error: Exception | None = None
        self.status: Status | None = None

    def ids(self) -> Mapping[str, str]:
        """Return what identifies its request in a log; most calls are never logged."""
        return logs.ids_of(self.request) if isinstance(self.request, Message) else {}

    def tell(self, span: Span) -> None:
        """Count it, finish its span, and write its line."""
        self._count(self.code.name, time.perf_counter() - self._began)
        if span.is_recording():
            self._finish(span)
        level = logging.DEBUG if self.code not in OURS else logging.INFO
        if self.error is not None and self.status is not None and level == logging.INFO:
            self._tell_failure(self.error, error_id_of(self.status))
        elif _levels.isEnabledFor(level):
            _log.log(level, "call", **self._facts())

    def _tell_failure(self, error: Exception, error_id: str) -> None:
        if error_id:
            _log.error("a call failed", **self._facts(), error_id=error_id, exc_info=error)
            return
        # The first line only: a database's error goes on with the statement and its values.
        cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        level = logging.WARNING if is_outage(error) else logging.INFO
        _log.log(level, "a call could not be served", **self._facts(), cause=cause)

    def _facts(self) -> dict[str, object]:
        milliseconds = round((time.perf_counter() - self._began) * 1e3, 3)
        return {**self.ids(), "method": self._name, "code": self.code.name, "ms": milliseconds}

    def _finish(self, span: Span) -> None:
        span.set_attribute("rpc.response.status_code", self.code.name)
        if self.code in OURS:
            span.set_attribute("error.type", self.code.name)
            span.set_status(StatusCode.ERROR)
            if self.error is not None:
                span.record_exception(self.error)
