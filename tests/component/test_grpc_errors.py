"""Errors of a service as its callers see them: code, message and details of `google.rpc.Status`."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import pytest
import sqlalchemy
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, ResourceInfo, RetryInfo
from grpc_status import rpc_status
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from commerce.order.v1 import order_service_pb2 as order
from commerce.product.v1 import product_service_pb2 as product
from tests.component.edge import Catalogue, bare_channel_to, catalogue_at, orders_at, serving
from weft.domain import AlreadyExists, InvalidInput, NotFound, Refused, Unavailable, Violation, WeftError

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

Detail = TypeVar("Detail", bound=Message)

SECRET = "tok_secret"


async def status_of_call(error: BaseException) -> Status:
    """Have a servicer raise `error`, and return the status that its caller reads."""

    async def fail(_request: object, _context: object) -> product.GetProductResponse:
        raise error

    async with serving(Catalogue(fail)) as server, bare_channel_to(server) as channel:
        call = catalogue_at(channel).GetProduct(product.GetProductRequest(sku="sku-1"))
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        status = await rpc_status.aio.from_call(call)
    assert status is not None
    return status


def detail(status: Status, kind: type[Detail]) -> Detail:
    """Return the one detail of that kind."""
    found = kind()
    [packed] = [one for one in status.details if one.Is(kind.DESCRIPTOR)]
    assert packed.Unpack(found)
    return found


def code(status: Status) -> str:
    """Return the name of its code."""
    return next(one.name for one in grpc.StatusCode if one.value[0] == status.code)


@pytest.mark.parametrize(
    ("error", "expected", "reason"),
    [
        (InvalidInput(Violation("sku", "is missing")), "INVALID_ARGUMENT", "INVALID_INPUT"),
        (NotFound("product", "sku-1"), "NOT_FOUND", "NOT_FOUND"),
        (AlreadyExists("product", "sku-1"), "ALREADY_EXISTS", "ALREADY_EXISTS"),
        (Refused("ORDER_ALREADY_SHIPPED", "too late"), "FAILED_PRECONDITION", "ORDER_ALREADY_SHIPPED"),
        (Unavailable("no copy of it yet"), "UNAVAILABLE", "UNAVAILABLE"),
        (TimeoutError(), "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (RuntimeError("a bug"), "INTERNAL", "INTERNAL"),
    ],
)
async def test_each_kind_of_error_has_its_code_and_a_reason_for_programs(
    error: Exception, expected: str, reason: str
) -> None:
    status = await status_of_call(error)

    assert code(status) == expected
    info = detail(status, ErrorInfo)
    assert (info.reason, info.domain) == (reason, "weft")
    if isinstance(error, WeftError):
        assert status.message == str(error)


async def test_wrong_input_names_every_wrong_field() -> None:
    wrong = InvalidInput(Violation("lines[0].quantity", "must be positive"), Violation("user_id", "is missing"))

    found = detail(await status_of_call(wrong), BadRequest)

    assert [(one.field, one.description) for one in found.field_violations] == [
        ("lines[0].quantity", "must be positive"),
        ("user_id", "is missing"),
    ]


@pytest.mark.parametrize("error", [NotFound("product", "sku-1"), AlreadyExists("product", "sku-1")])
async def test_what_is_missing_or_taken_is_named(error: WeftError) -> None:
    found = detail(await status_of_call(error), ResourceInfo)

    assert (found.resource_type, found.resource_name) == ("product", "sku-1")


async def test_unavailable_says_when_to_try_again() -> None:
    found = detail(await status_of_call(Unavailable("not now", retry_after=2.5)), RetryInfo)

    assert found.retry_delay.ToMilliseconds() == 2500


def outages() -> list[Exception]:
    """Return what a database that does not answer raises."""
    lost = DBAPIError("SELECT 1", {"token": SECRET}, Exception("gone"), connection_invalidated=True)
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorname = "SQLITE_BUSY"
    return [
        OperationalError("SELECT 1", {"token": SECRET}, Exception("connection refused")),
        InterfaceError("SELECT 1", {"token": SECRET}, Exception("connection already closed")),
        OperationalError("SELECT 1", {"token": SECRET}, busy),
        sqlalchemy.exc.TimeoutError("QueuePool limit reached"),
        lost,
    ]


@pytest.mark.parametrize("error", outages(), ids=lambda error: type(error).__name__)
async def test_a_database_that_does_not_answer_is_unavailable(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    status = await status_of_call(error)

    assert code(status) == "UNAVAILABLE"
    assert detail(status, RetryInfo).retry_delay.ToMilliseconds() > 0
    assert "SELECT" not in status.message
    [line] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "cause" in str(line.msg)
    assert SECRET not in caplog.text


async def test_a_mistake_in_a_statement_is_no_outage() -> None:
    mistake = sqlite3.OperationalError("no such table: product")
    mistake.sqlite_errorname = "SQLITE_ERROR"

    assert code(await status_of_call(OperationalError("SELECT 1", {}, mistake))) == "INTERNAL"


async def test_a_bug_is_told_by_an_id_that_is_in_the_log_with_the_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = await status_of_call(RuntimeError(f"what nobody should see: {SECRET}"))

    error_id = detail(status, RequestInfo).request_id
    assert error_id in status.message
    assert SECRET not in str(status)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert isinstance(record.msg, dict)
    line: dict[str, Any] = record.msg
    assert line["error_id"] == error_id
    assert line["sku"] == "sku-1"
    assert isinstance(line["exc_info"], RuntimeError)


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "UNAVAILABLE"),
        (grpc.StatusCode.NOT_FOUND, "INTERNAL"),
    ],
)
async def test_a_service_behind_that_does_not_answer_is_unavailable(behind: grpc.StatusCode, expected: str) -> None:
    empty = grpc.aio.Metadata()

    assert code(await status_of_call(grpc.aio.AioRpcError(behind, empty, empty))) == expected


async def test_a_status_that_the_servicer_chose_itself_stays() -> None:
    async def abort(_request: object, context: Any) -> product.GetProductResponse:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "beyond the end")
        raise AssertionError("unreachable")

    async with serving(Catalogue(abort)) as server, bare_channel_to(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await catalogue_at(channel).GetProduct(product.GetProductRequest())

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "beyond the end")


async def test_more_wrong_fields_than_fit_still_arrive_as_wrong_input() -> None:
    status = await status_of_call(InvalidInput(*(Violation(f"lines[{n}].sku", "é" * 100) for n in range(1000))))

    assert code(status) == "INVALID_ARGUMENT"
    assert 5 < len(detail(status, BadRequest).field_violations) < 100
    assert status.message.endswith("...")


async def test_a_name_that_is_no_text_still_arrives() -> None:
    status = await status_of_call(NotFound("product", "\ud800" + "x" * 10_000))

    assert code(status) == "NOT_FOUND"
    assert len(detail(status, ResourceInfo).resource_name) <= 512


async def test_a_request_that_cannot_be_decoded_is_wrong_input() -> None:
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        call = channel.unary_unary(f"/{product.DESCRIPTOR.package}.ProductService/GetProduct")(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_answer_that_cannot_be_encoded_is_our_error_and_tells_nothing() -> None:
    async def answer_nothing(_request: object, _context: object) -> Any:
        return None

    async with serving(Catalogue(answer_nothing)) as server, bare_channel_to(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await catalogue_at(channel).GetProduct(product.GetProductRequest())

    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "None" not in str(caught.value.details())


async def test_methods_that_are_not_there_are_unimplemented() -> None:
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        catalogue, orders = catalogue_at(channel), orders_at(channel)
        for call in (
            catalogue.ListProducts(product.ListProductsRequest()),
            orders.GetOrder(order.GetOrderRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
