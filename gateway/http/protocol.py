"""HTTP/1.1 for strangers: uvicorn's protocol on httptools, with the caps that an application would set too late.

httptools itself refuses what requests are smuggled with: Content-Length beside Transfer-Encoding, lines that end in a
bare LF, folded headers, lengths with a sign. Here is the rest: sizes, an absolute time in which a request must have
arrived, transfer codings other than chunked, and a client that goes away, which cancels its request.
"""

from __future__ import annotations

import contextvars
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.admission.addresses import site_of
from gateway.errors import Refusal, headers_of, refusal, retry_later
from gateway.http.answers import BASE_HEADERS, CutOff

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gateway.admission.addresses import Addresses
    from gateway.errors import ErrorWriter
    from gateway.records import Metrics

_failures = logging.getLogger("weft.gateway.http")
_failures.setLevel(logging.ERROR)
_LINGER = 1.0
"""Seconds in which a client that is still sending can read why it was refused."""
_SLACK = 64 << 10
_BYTES_A_BYTE = 9
"""How many bytes of chunked encoding a byte of a body may take."""
_MOST_WAITING = 32
"""Pipelined requests that wait for their turn: each takes a hundred times the memory of its bytes."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What a client may do: sizes in bytes, times in seconds."""

    body: int
    headers: int
    header_count: int
    url: int
    connections: int
    connections_of_one: int
    """Of one address, unless it is a trusted proxy's."""
    receive: float
    idle: float


class Protocol(HttpToolsProtocol):
    """One connection. Made by `protocol_with`, which sets the limits."""

    limits: ClassVar[Caps]
    addresses: ClassVar[Addresses]
    connected: ClassVar[Counter[str]]
    """How many connections there are of each address, but for trusted proxies'."""
    errors: ClassVar[ErrorWriter]
    metrics: ClassVar[Metrics]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # uvicorn warns of each malformed request, which any stranger can send.
        self.logger = _failures
        # Its lines have the query, which may have a token. uvicorn asks whether anybody logs, not whether it is to.
        self.access_log = False
        # With the ids that lines of this gateway have, and nothing that one request leaves to the next.
        self._context = contextvars.copy_context()
        self._address = ""
        self._refused = False
        self._raw_bytes = 0
        self._header_bytes = 0
        self._header_count = 0
        self._body_bytes = 0
        self._receiving = False
        self._in_headers = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        self._address = "" if self.addresses.trusts(host) else site_of(host)
        self.connected[self._address] += 1
        if self._address and self.connected[self._address] > self.limits.connections_of_one:
            self._refuse(retry_later("TOO_MANY_CONNECTIONS", "too many connections of this address: close some"))
        elif len(self.connections) > self.limits.connections:
            self._refuse(retry_later("TOO_MANY_CONNECTIONS", "too many connections: try again"))
        else:
            self._arm(self.limits.receive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.connected[self._address] -= 1
        if not self.connected[self._address]:
            del self.connected[self._address]
        super().connection_lost(exc)
        if self._answering is not None:  # uvicorn tells the last one that came, which may wait behind this one.
            self._answering.disconnected = True
        for task in self._running:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        goes_on = self._receiving
        super().data_received(data)
        if goes_on and self._receiving:
            self._check_size(len(data))

    def _check_size(self, more: int) -> None:
        """Refuse what hides from the other limits: a header or trailer that never ends, chunks of little else."""
        self._raw_bytes += more
        limits = self.limits
        if self._raw_bytes > limits.url + limits.headers + _SLACK + _BYTES_A_BYTE * self._body_bytes:
            self._refuse(self._headers_too_large())

    def _unsupported_upgrade_warning(self) -> None:
        """Serve a client that offers an upgrade, as to HTTP/2, without it.

        Its answer is the last one, as httptools drops what came with the request, be it a further one.
        """
        if not self._refused and self.cycle is not None:
            self._refused = True
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_bad_request("this is not HTTP as RFC 9112 has it"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving = self._in_headers = True
        self._raw_bytes = self._header_bytes = self._header_count = self._body_bytes = 0
        self._arm(self.limits.receive)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url:
            self._refuse(_too_large(414, "URL_TOO_LONG", f"the URL is longer than {self.limits.url} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        self._header_count += 1
        if self._header_bytes > self.limits.headers:
            self._refuse(self._headers_too_large())
        elif self._header_count > self.limits.header_count:
            self._refuse(_too_large(431, "TOO_MANY_HEADERS", f"there are over {self.limits.header_count} headers"))
        elif self._in_headers:  # Trailers must not pass for headers.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._refused and (fault := self._fault()) is not None:
            self._refuse(fault)
        if not self._refused:
            super().on_headers_complete()
        self._in_headers = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._refused:
            return
        if self._body_bytes > self.limits.body:
            self._refuse(self._body_too_large())
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        self._disarm()
        if self._refused:
            return
        super().on_message_complete()
        if self.cycle.response_complete:  # It was answered before it was whole.
            self._arm(self.limits.idle)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or not (self._receiving or self.pipeline):
            self._arm(self.limits.idle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        task = self.loop.create_task(cycle.run_asgi(self._cutting(cycle, app)), context=self._context.copy())
        for tasks in (self.tasks, self._running):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def _cutting(self, cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
        """Return an application that cuts the connection when `app` says so."""

        async def serve(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            except CutOff:
                cycle.disconnected = True
                self.transport.close()
                self._disarm()
                self._timer = self.loop.call_later(_LINGER, self.transport.abort)  # Should the client read no more.

        return serve

    def _fault(self) -> Refusal | None:
        """Return what is wrong with the headers as a whole."""
        if len(self.pipeline) >= _MOST_WAITING:
            return retry_later("TOO_MANY_REQUESTS", "too many requests wait in this connection: send the rest again")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return _bad_request("speak HTTP/1.1")
        values: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            if name in (b"host", b"content-length", b"transfer-encoding"):
                values.setdefault(name, []).append(value)
        if len(values.get(b"host", ())) != 1 and version == "1.1":
            return _bad_request("there must be one Host header")
        if coding := values.get(b"transfer-encoding"):
            if version == "1.0" or len(coding) > 1 or coding[0].lower() != b"chunked":
                return _bad_request("the only Transfer-Encoding that is understood is chunked")
        elif int(values.get(b"content-length", [b"0"])[0]) > self.limits.body:
            return self._body_too_large()
        return None

    def _headers_too_large(self) -> Refusal:
        return _too_large(431, "HEADERS_TOO_LARGE", f"the headers are over {self.limits.headers} bytes")

    def _body_too_large(self) -> Refusal:
        return _too_large(413, "BODY_TOO_LARGE", f"the body is over {self.limits.body} bytes")

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()  # It does not read its last answer.
        elif self._is_answering() and self.cycle.more_body is False:
            self._arm(self.limits.receive)  # A pipelined request waits for the answer to the one before it.
        elif self._receiving:
            seconds = f"{self.limits.receive:g}"
            message = f"the request did not arrive within {seconds} s"
            self._refuse(refusal(408, grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_TOO_SLOW", message))
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # It does not read its answer.
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _is_answered(self) -> bool:
        """Tell whether the request that is coming in has its answer: one more would pass for that of the next."""
        in_body = self._receiving and not self._in_headers
        return in_body and self.cycle is not None and bool(self.cycle.response_complete)

    def _refuse(self, fault: Refusal) -> None:
        """Answer in place of the application, and close; what the client still sends is not looked at."""
        if self._refused:
            return
        self._refused = True
        self.metrics.tell_refused(fault.http)
        self._disarm()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # The fault is in what follows it: its answer is the last one.
                cycle.keep_alive = False
                return
            if cycle.response_started or self.pipeline:
                self.transport.abort()
                return
            cycle.disconnected = True
        for task in self._running:
            task.cancel()
        self.flow.resume_reading()
        if not self._is_answered():
            self.transport.write(self._answer(fault))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.abort)

    def _answer(self, fault: Refusal) -> bytes:
        body = self.errors.write(fault.status)
        headers = [
            *self.server_state.default_headers,
            *BASE_HEADERS,
            *headers_of(fault.status, token_sent=False),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"".join((STATUS_LINE[fault.http], lines, b"\r\n", body))


def protocol_with(limits: Caps, addresses: Addresses, errors: ErrorWriter, metrics: Metrics) -> type[Protocol]:
    """Return the class of connections with these limits, which write and count what they refuse themselves."""
    shared = {"limits": limits, "addresses": addresses, "connected": Counter[str](), "errors": errors}
    return type("LimitedProtocol", (Protocol,), {**shared, "metrics": metrics})


def _bad_request(message: str) -> Refusal:
    return refusal(400, grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_HTTP", message)


def _too_large(http: int, reason: str, message: str) -> Refusal:
    return refusal(http, grpc.StatusCode.INVALID_ARGUMENT, reason, message)
