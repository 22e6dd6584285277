"""Errors as `google.rpc.Status`: the one place that decides which code and which details a caller gets.

    WeftError                        as its docstring says, with the details of AIP-193
    the database does not answer     UNAVAILABLE, with a RetryInfo
    a service behind us is not there UNAVAILABLE, with a RetryInfo
    the deadline passed              DEADLINE_EXCEEDED
    a method is not implemented      UNIMPLEMENTED
    anything else                    INTERNAL, with nothing but an error id that is also in the log

Every status has an `ErrorInfo`, so programs need not read messages. Sizes are bounded: gRPC drops what does
not fit its 8 KB of trailing metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from weft.domain import (
    AlreadyExists,
    Exhausted,
    InvalidInput,
    NotFound,
    Outdated,
    PermissionDenied,
    Refused,
    Unauthenticated,
    Unavailable,
    WeftError,
    new_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message

DOMAIN = "weft"
"""The `domain` of every `ErrorInfo`: reasons are unique within it."""

CODES = {int(code.value[0]): code for code in grpc.StatusCode}
"""gRPC's status codes by their number."""

OURS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that tell of a failure of the service, and not of its caller."""

_TEXT = 512
_VIOLATION_BYTES = 2048
_BEHIND = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


def status_of(error: BaseException) -> Status:
    """Return what the caller is told about `error`.

    An INTERNAL status has a `RequestInfo` whose `request_id` is new: log it with the error (`error_id_of`).
    """
    if isinstance(error, WeftError):
        return _status_of_ours(error)
    if is_outage(error):
        return _status_of_ours(Unavailable("the service cannot reach what it needs; try again"))
    if isinstance(error, TimeoutError):
        return _status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed", "DEADLINE_EXCEEDED")
    if isinstance(error, NotImplementedError):
        return _status(grpc.StatusCode.UNIMPLEMENTED, "this method is not implemented here", "UNIMPLEMENTED")
    error_id = new_id()
    message = f"internal error; the service's log has it as {error_id}"
    return _status(grpc.StatusCode.INTERNAL, message, "INTERNAL", [RequestInfo(request_id=error_id)])


def is_outage(error: BaseException) -> bool:
    """Tell whether `error` means that the database, or a service behind this one, does not answer."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _BEHIND
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (
            isinstance(error, OperationalError | InterfaceError)
            # What SQLite calls operational includes mistakes in a statement.
            and getattr(error.orig, "sqlite_errorname", None) != "SQLITE_ERROR"
        )
    return isinstance(error, PoolTimeout | ConnectionError)


def error_id_of(status: Status) -> str:
    """Return the error id of an INTERNAL status; nothing for others."""
    info = RequestInfo()
    return next((info.request_id for detail in status.details if detail.Unpack(info)), "")


def _status_of_ours(error: WeftError) -> Status:
    match error:
        case InvalidInput():
            return _status(grpc.StatusCode.INVALID_ARGUMENT, str(error), error.slug, [_bad_request(error)])
        case NotFound():
            return _status(grpc.StatusCode.NOT_FOUND, str(error), error.slug, [_resource(error)])
        case AlreadyExists():
            return _status(grpc.StatusCode.ALREADY_EXISTS, str(error), error.slug, [_resource(error)])
        case Refused():
            return _status(grpc.StatusCode.FAILED_PRECONDITION, str(error), error.reason)
        case Outdated():
            return _status(grpc.StatusCode.ABORTED, str(error), error.slug)
        case Unauthenticated():
            return _status(grpc.StatusCode.UNAUTHENTICATED, str(error), error.reason)
        case PermissionDenied():
            return _status(grpc.StatusCode.PERMISSION_DENIED, str(error), error.slug)
        case Exhausted():
            return _status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), error.slug, [_retry(error.retry_after)])
        case Unavailable():
            return _status(grpc.StatusCode.UNAVAILABLE, str(error), error.slug, [_retry(error.retry_after)])
    return _status(grpc.StatusCode.FAILED_PRECONDITION, str(error), error.slug)


def _status(code: grpc.StatusCode, message: str, reason: str, details: Sequence[Message] = ()) -> Status:
    status = Status(code=code.value[0], message=_cut(message))
    for detail in (ErrorInfo(reason=reason, domain=DOMAIN), *details):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _bad_request(error: InvalidInput) -> BadRequest:
    return BadRequest(field_violations=_fitting_violations(error))


def _fitting_violations(error: InvalidInput) -> Iterator[BadRequest.FieldViolation]:
    left = _VIOLATION_BYTES
    for violation in error.violations:
        field, description = _cut(violation.field), _cut(violation.description)
        shown = BadRequest.FieldViolation(field=field, description=description)
        left -= shown.ByteSize()
        if left < 0:
            return
        yield shown


def _resource(error: NotFound | AlreadyExists) -> ResourceInfo:
    return ResourceInfo(resource_type=error.kind, resource_name=_cut(error.name))


def _retry(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return RetryInfo(retry_delay=delay)


def _cut(text: str) -> str:
    """Return `text` so short that it fits, even where gRPC writes each of its bytes as three."""
    cut = text.encode(errors="replace")[:_TEXT].decode(errors="ignore")
    return cut if cut == text else f"{cut[:-3]}..."
