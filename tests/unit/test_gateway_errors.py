"""Errors as HTTP: what a client is told of a failed call, and what it is not."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, DebugInfo, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    HTTP_STATUS,
    ErrorWriter,
    error_id_of,
    headers_of,
    http_status_of,
    json_path,
    renamed,
    retry_later,
    status_of,
)
from gateway.http.requests import Headers
from tests.gateway_probe import message, probe

if TYPE_CHECKING:
    from google.protobuf.message import Message

WRITER = ErrorWriter(probe().pool)
CHANGE: Any = message("ChangeThingRequest").DESCRIPTOR
LEAK = "failed to connect to all addresses; last error: ipv4:10.1.2.3:50051: Connection refused"


def failed(code: grpc.StatusCode, text: str, *details: Message, status_code: int | None = None) -> grpc.aio.AioRpcError:
    """Return a failed call, with a status beside it if there are details."""
    trailing = grpc.aio.Metadata()
    if details:
        status = Status(code=code.value[0] if status_code is None else status_code, message=text)
        for detail in details:
            status.details.add().Pack(detail)
        trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=text)


def retry(seconds: float) -> RetryInfo:
    return RetryInfo(retry_delay=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))


def test_every_code_has_the_http_status_that_google_rpc_code_documents() -> None:
    documented = {
        "OK": 200, "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400, "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500,
        "UNAVAILABLE": 503, "DATA_LOSS": 500, "UNAUTHENTICATED": 401,
    }  # fmt: skip
    assert {code.name: HTTP_STATUS[code.value[0]] for code in grpc.StatusCode} == documented


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    ],
)
def test_what_grpc_or_a_crash_says_does_not_reach_the_client(code: grpc.StatusCode) -> None:
    status = status_of(failed(code, LEAK))
    assert "10.1.2.3" not in WRITER.write(status).decode()
    assert status.message


def test_an_internal_error_has_an_id_to_look_for_in_the_log() -> None:
    status = status_of(failed(grpc.StatusCode.UNKNOWN, "Exception calling application: secret"))
    assert error_id_of(status)
    assert error_id_of(status) in status.message


def test_what_the_backend_says_of_a_request_is_passed_on() -> None:
    plain = status_of(failed(grpc.StatusCode.NOT_FOUND, "there is no thing 'x'"))
    assert (plain.code, plain.message, list(plain.details)) == (5, "there is no thing 'x'", [])
    told = status_of(failed(grpc.StatusCode.UNAVAILABLE, "the writer is full", ErrorInfo(reason="FULL"), retry(3)))
    assert told.message == "the writer is full"
    assert headers_of(told, token_sent=False) == [(b"retry-after", b"3")]


def test_details_of_another_status_are_not_believed() -> None:
    assert status_of(failed(grpc.StatusCode.NOT_FOUND, "x", ErrorInfo(reason="R"), status_code=7)).code == 5
    broken = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), broken, details="gone")
    assert status_of(error).message == "gone"


def test_details_are_written_by_their_types_and_unknown_ones_as_base64() -> None:
    status = Status(code=3, message="m")
    status.details.add().Pack(ErrorInfo(reason="R", domain="d", metadata={"a": "b"}))
    status.details.add().Pack(message("Price")(units=3))
    status.details.append(AnyMessage(type_url="type.googleapis.com/no.Such", value=b"\x01"))
    status.details.append(AnyMessage(type_url="type.googleapis.com/probe.v1.Price", value=b"\xff"))
    status.details.append(AnyMessage(type_url="", value=b"x"))
    assert json.loads(WRITER.write(status)) == {
        "code": 3,
        "message": "m",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "domain": "d", "metadata": {"a": "b"}},
            {"@type": "type.googleapis.com/probe.v1.Price", "units": "3"},
            {"@type": "type.googleapis.com/no.Such", "value": base64.b64encode(b"\x01").decode()},
            {"@type": "type.googleapis.com/probe.v1.Price", "value": "/w=="},
            {"@type": "", "value": "eA=="},
        ],
    }


@given(st.text(max_size=20), st.binary(max_size=20))
def test_no_detail_makes_an_error_of_its_own(type_url: str, value: bytes) -> None:
    status = Status(code=3, details=[AnyMessage(type_url=type_url.encode(errors="ignore").decode(), value=value)])
    assert json.loads(WRITER.write(status))["code"] == 3


@pytest.mark.parametrize("name", ["BadRequest", "ErrorInfo", "RequestInfo", "RetryInfo"])
def test_a_detail_that_is_broken_is_passed_over_and_written_as_it_is(name: str) -> None:
    url = f"type.googleapis.com/google.rpc.{name}"
    status = Status(code=3, message="m", details=[AnyMessage(type_url=url, value=b"\xff")])
    status.details.add().Pack(retry(3))
    renamed(status, CHANGE, "")
    assert (http_status_of(status), error_id_of(status)) == (400, "")
    assert headers_of(status, token_sent=False) == [(b"retry-after", b"3")]
    assert json.loads(WRITER.write(status))["details"][0] == {"@type": url, "value": "/w=="}


def test_a_stack_trace_of_the_backend_does_not_reach_the_client() -> None:
    trace = DebugInfo(stack_entries=["at db.Pool.connect(10.1.2.3)"], detail=LEAK)
    told = status_of(failed(grpc.StatusCode.NOT_FOUND, "there is no thing", ErrorInfo(reason="GONE"), trace))
    assert [detail.TypeName() for detail in told.details] == ["google.rpc.ErrorInfo"]
    crashed = status_of(failed(grpc.StatusCode.INTERNAL, LEAK, trace))
    assert "10.1.2.3" not in WRITER.write(crashed).decode()
    assert error_id_of(crashed)


def test_headers_say_when_to_come_again_and_how_to_sign_in() -> None:
    assert headers_of(retry_later("R", "m", 7).status, token_sent=False) == [(b"retry-after", b"7")]
    busy = status_of(failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "m", retry(0.2)))
    assert headers_of(busy, token_sent=False) == [(b"retry-after", b"1")]
    unknown = Status(code=16)
    assert headers_of(unknown, token_sent=False) == [(b"www-authenticate", b"Bearer")]
    assert headers_of(unknown, token_sent=True) == [(b"www-authenticate", b'Bearer error="invalid_token"')]
    assert headers_of(Status(code=5), token_sent=True) == []


@pytest.mark.parametrize(
    ("path", "body", "shown"),
    [
        ("thing.unit_price.currency_code", "thing", "unitPrice.currencyCode"),
        ("thing.unit_price.currency_code", "", "thing.unitPrice.currencyCode"),
        ("thing.offers[0].currency_code", "thing", "offers[0].currencyCode"),
        ("update_mask", "thing", "updateMask"),
        ("thing", "thing", "thing"),
        ("thing.display_name", "*", "thing.displayName"),
        ("thing.no_such", "thing", "thing.no_such"),
        ("no_such", "", "no_such"),
        ("", "", ""),
        ("thing..id", "", "thing..id"),
    ],
)
def test_violations_have_json_names_relative_to_the_body(path: str, body: str, shown: str) -> None:
    assert json_path(path, CHANGE, body) == shown


def test_the_message_follows_the_names_of_the_violations_that_it_lists() -> None:
    told = BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field="thing.display_name", description="must be set"),
            BadRequest.FieldViolation(field="dry_run", description="is wrong"),
        ]
    )
    text = "thing.display_name: must be set; dry_run: is wrong"
    status = renamed(status_of(failed(grpc.StatusCode.INVALID_ARGUMENT, text, told)), CHANGE, "thing")
    assert status.message == "displayName: must be set; dryRun: is wrong"
    assert [one["field"] for one in json.loads(WRITER.write(status))["details"][0]["fieldViolations"]] == [
        "displayName",
        "dryRun",
    ]
    other = status_of(failed(grpc.StatusCode.INVALID_ARGUMENT, "no", told))
    assert renamed(other, CHANGE, "thing").message == "no"


def test_only_listed_headers_pass_on() -> None:
    headers = [
        (b"authorization", b"Bearer x"),
        (b"accept-language", b"de"),
        (b"x-request-id", b"7"),
        (b"grpc-metadata-authorization", b"Bearer y"),
        (b"x-user-id", b"admin"),
        (b"cookie", b"a=b"),
        (b"tracestate", b"a=1"),
        (b"tracestate", b"b=2"),
        (b"traceparent", b"00-1"),
    ]
    made = Headers(headers)
    assert dict(made.metadata) == {"authorization": "Bearer x", "accept-language": "de", "x-request-id": "7"}
    assert (made.traceparent, made.tracestate, made.has_token) == ("00-1", "a=1,b=2", True)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer x"), (b"authorization", b"Bearer y")],
        [(b"authorization", b"Bearer \xff")],
        [(b"authorization", b"Bearer\tx")],
        [(b"x-request-id", b"x" * 4097)],
    ],
)
def test_a_header_that_cannot_pass_on_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Exception, match="must be there once, in at most 4096 characters of ASCII"):
        Headers(headers)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 10.0),
        ({b"x-request-timeout": b"2.5"}, 2.5),
        ({b"x-request-timeout": b"20"}, 20.0),
        ({b"x-request-timeout": b"3600"}, 60.0),
        ({b"grpc-timeout": b"1500m"}, 1.5),
        ({b"grpc-timeout": b"1M"}, 60.0),
        ({b"grpc-timeout": b"99999999H"}, 60.0),
        ({b"grpc-timeout": b"2S", b"x-request-timeout": b"1"}, 1.0),
    ],
)
def test_a_client_may_set_a_timeout_up_to_the_cap(headers: dict[bytes, bytes], seconds: float) -> None:
    assert Headers(headers.items()).timeout(10.0, 60.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "header", [(b"x-request-timeout", b"1s"), (b"x-request-timeout", b"-1"), (b"grpc-timeout", b"1")]
)
def test_a_malformed_timeout_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(Exception, match=f"the header {header[0].decode()} must be"):
        Headers([header])


@pytest.mark.parametrize(
    ("kind", "is_json"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=UTF-8", True),
        (b'application/json;charset="utf-8"', True),
        (b"application/merge-patch+json", True),
        (b"application/json; charset=latin-1", False),
        (b"text/plain", False),
        (b"application/x-www-form-urlencoded", False),
        (b"application/jsonp", False),
    ],
)
def test_json_is_told_by_its_media_type(kind: bytes, is_json: bool) -> None:
    assert Headers([(b"content-type", kind)]).is_json is is_json
