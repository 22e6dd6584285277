"""Errors as HTTP: google.rpc.Status as JSON, with the status code that google/rpc/code.proto documents.

What a backend says about a request is passed on. What gRPC itself, or a crash, says is not: it names addresses and
code; the client gets a message of the gateway's own.
"""

from __future__ import annotations

import base64
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from weft.domain import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from gateway.http.answers import Header

    T = TypeVar("T", bound=Message)

DOMAIN = "gateway"
"""The `domain` of the ErrorInfo in errors of the gateway's own."""

HTTP_STATUS = {
    0: 200,
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""HTTP status codes by the number of a google.rpc.Code, as code.proto says."""

_BY_REASON = {"IDEMPOTENCY_KEY_REUSED": 422, "ETAG_MISMATCH": 412}
"""HTTP status codes of errors for which HTTP has one that says more, by the reason of their ErrorInfo."""

_INVALID, _LATE, _FORBIDDEN, _UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE, _UNAUTHENTICATED = 3, 4, 7, 12, 13, 14, 16
_ABORTED = 10
_UNTOLD = {1: "the call was cancelled", _LATE: "the deadline passed", _UNAVAILABLE: "not reachable now: try again"}
"""Codes whose message is gRPC's own where there are no details, and what is said instead."""
_OURS = frozenset({2, _INTERNAL, 15})
_STACK_TRACE = "google.rpc.DebugInfo"
_SHOWN = 200
"""Characters of a name that a client made up which an error repeats."""
_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[[^\]]*\])?")


class Refusal(Exception):
    """The gateway itself answers, with this status; `headers` go with it."""

    def __init__(self, http: int, status: Status, headers: Sequence[Header] = ()) -> None:
        self.http = http
        self.status = status
        self.headers = headers
        super().__init__(status.message)


def refusal(
    http: int,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *details: Message,
    headers: Sequence[Header] = (),
    domain: str = DOMAIN,
) -> Refusal:
    """Make a refusal whose ErrorInfo has this reason."""
    status = Status(code=code.value[0], message=message)
    for detail in (ErrorInfo(reason=reason, domain=domain), *details):
        status.details.add().Pack(detail)
    return Refusal(http, status, headers)


def invalid(faults: Iterable[tuple[str, str]]) -> Refusal:
    """Make the 400 that names each field at fault by its JSON path, and says what is wrong with it."""
    violations = [BadRequest.FieldViolation(field=_shown(field), description=what) for field, what in faults]
    message = "; ".join(f"{one.field}: {one.description}" if one.field else one.description for one in violations)
    details = BadRequest(field_violations=violations)
    return refusal(400, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message, details)


def _shown(name: str) -> str:
    return name[:_SHOWN].encode(errors="backslashreplace").decode()  # JSON may have half a surrogate pair in it.


def retry_later(reason: str, message: str, seconds: int = 1) -> Refusal:
    """Make a 503 that asks to come again."""
    info = RetryInfo()
    info.retry_delay.FromSeconds(seconds)
    return refusal(503, grpc.StatusCode.UNAVAILABLE, reason, message, info)


def internal(error_id: str) -> Refusal:
    """Make a 500 that says nothing but where to look; log the error with that id."""
    message = f"internal error; the gateway's log has it as {error_id}"
    return refusal(500, grpc.StatusCode.INTERNAL, "INTERNAL", message, RequestInfo(request_id=error_id))


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """Return what a client may be told of a failed call.

    A status with details was made by the backend for its callers, and is passed on, but for a stack trace. Without,
    the message may be gRPC's or a crash's: then codes for which that happens get a message of ours.
    """
    code = int(error.code().value[0])
    status = Status(code=code, message=error.details() or "")
    told = _told(error)
    if told is not None and told.code == code:
        kept = [detail for detail in told.details if detail.TypeName() != _STACK_TRACE]
        if kept or not told.details:
            return Status(code=code, message=told.message, details=kept)
    if code in _OURS:
        return internal(new_id()).status
    if code == _UNAVAILABLE:
        return retry_later("BACKEND_UNAVAILABLE", _UNTOLD[code]).status
    if code in _UNTOLD:
        status.message = _UNTOLD[code]
    return status


def http_status_of(status: Status, *, guarded: bool = False) -> int:
    """Return the HTTP status code of an error: by its reason if HTTP has one for that, else by its code.

    ABORTED answers a `guarded` request, one with If-Match, whose etag is not the present one (AIP-154).
    """
    info = _first(status, ErrorInfo)
    if info is not None and info.reason in _BY_REASON:
        return _BY_REASON[info.reason]
    if guarded and status.code == _ABORTED:
        return 412
    return HTTP_STATUS.get(status.code, 500)


def error_id_of(status: Status) -> str:
    """Return the id under which an error of the gateway's own is to be logged; nothing for others."""
    info, request = _first(status, ErrorInfo), _first(status, RequestInfo)
    if info is None or request is None or info.domain != DOMAIN:
        return ""
    return request.request_id


def _first(status: Status, kind: type[T]) -> T | None:
    """Return the first detail of a type; None if there is none."""
    return next((found for _, found in _details(status, kind)), None)


def _details(status: Status, kind: type[T]) -> Iterator[tuple[AnyMessage, T]]:
    """Give the details of a type, as they are packed and unpacked, but for those that are broken."""
    found = kind()
    for detail in status.details:
        try:
            if detail.Unpack(found):
                yield detail, found
        except DecodeError:
            continue


def _told(error: grpc.aio.AioRpcError) -> Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                return Status.FromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:
                return None
    return None


class ErrorWriter:
    """Writes statuses as JSON; details of types that neither the pool nor the gateway has are given as base64."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def write(self, status: Status) -> bytes:
        """Return the body of an error."""
        details = [self._detail(detail) for detail in status.details]
        return orjson.dumps({"code": status.code, "message": status.message, "details": details})

    def _detail(self, detail: AnyMessage) -> dict[str, Any]:
        try:
            shown: dict[str, Any] = json_format.MessageToDict(detail, descriptor_pool=self._pool)
        except (TypeError, ValueError, KeyError, DecodeError, json_format.Error):
            return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}
        return shown


def headers_of(status: Status, *, token_sent: bool) -> list[Header]:
    """Return the headers that go with a status: Retry-After (RFC 9110) and WWW-Authenticate (RFC 6750)."""
    headers: list[Header] = []
    if (seconds := _retry_after(status)) is not None:
        headers.append((b"retry-after", str(seconds).encode()))
    if status.code == _UNAUTHENTICATED:
        headers.append((b"www-authenticate", b'Bearer error="invalid_token"' if token_sent else b"Bearer"))
    elif status.code == _FORBIDDEN and token_sent:
        headers.append((b"www-authenticate", b'Bearer error="insufficient_scope"'))
    return headers


def _retry_after(status: Status) -> int | None:
    info = _first(status, RetryInfo)
    if info is not None:
        return max(1, math.ceil(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
    return 1 if status.code == _UNAVAILABLE else None


def renamed(status: Status, request: Descriptor, body: str) -> Status:
    """Return a status whose field violations have JSON names, relative to what the client sent.

    `body` is the field of the request that the HTTP body is, or nothing.
    """
    if status.code != _INVALID:
        return status
    for detail, told in _details(status, BadRequest):
        said = _sentence(told)
        for violation in told.field_violations:
            violation.field = json_path(violation.field, request, body)
        detail.Pack(told)
        if status.message == said:
            status.message = _sentence(told)
    return status


def _sentence(told: BadRequest) -> str:
    return "; ".join(f"{one.field}: {one.description}" for one in told.field_violations)


def json_path(path: str, request: Descriptor, body: str) -> str:
    """Return a path of contract names, as in `product.unit_price`, in JSON names, from where `body` begins.

    What the request does not have is left as it is.
    """
    names: list[str] = []
    message: Descriptor | None = request
    for step in path.split("."):
        match = _STEP.fullmatch(step)
        field = message.fields_by_name.get(match[1]) if match and message is not None else None
        if match is None or field is None:
            return path
        names.append(f"{field.json_name}{match[2] or ''}")
        message = field.message_type
    if body and len(names) > 1 and path.startswith(f"{body}."):
        del names[0]
    return ".".join(names)
