"""What callers do with orders that are placed: cancel, list and watch them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import event, select

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_events_pb2 import OrderCancelRequested
from commerce.payment.v1.payment_events_pb2 import PaymentFailed
from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingCancelled,
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from services.order import queries
from services.order.domain import State
from tests.component.orders import ordering
from tests.component.support import reason, refusal, violations
from weft import tables
from weft.domain import new_id
from weft.pages import PageRequest, listing
from weft.testing import eventually

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from services.order.settings import Settings
    from tests.component.orders import FakeProduct, Orders
    from tests.component.support import Streams

ID_RULE = "must match [A-Za-z0-9_-]{1,64}"
ADMIN = "ann"
"""Who calls unless a test says otherwise."""
MALFORMED_IDS = ("", "no.dots", "nul\0", "x" * 65)
on_postgres_only = pytest.mark.parametrize("database_server", ["postgres"], indirect=True)


def prepared(order_id: str) -> ShippingPrepared:
    return ShippingPrepared(shipment_id=order_id, order_id=order_id)


def dispatched(order_id: str) -> ShippingDispatched:
    return ShippingDispatched(shipment_id=order_id, order_id=order_id)


def delivered(order_id: str) -> ShippingDelivered:
    return ShippingDelivered(shipment_id=order_id, order_id=order_id)


def watch(orders: Orders, order_id: str) -> Any:
    return orders.stub.WatchOrder(api.WatchOrderRequest(order_id=order_id))


async def test_a_pending_order_is_cancelled_at_once_and_once(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    cancelled = await orders.cancel(order_id)
    assert cancelled.state == api.ORDER_STATE_CANCELLED
    assert cancelled.cancel_reason == api.CANCEL_REASON_CUSTOMER_REQUEST
    assert await orders.cancel(order_id) == cancelled
    assert await orders.published(order_id) == ["OrderCreated", "OrderCancelled"]


async def test_a_confirmed_order_is_cancelled_once_shipping_agrees(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    await orders.hears(prepared(order_id))
    assert (await orders.cancel(order_id)).state == api.ORDER_STATE_CANCELLING
    assert (await orders.cancel(order_id)).state == api.ORDER_STATE_CANCELLING
    await orders.streams.wait_for(OrderCancelRequested, order_id)
    await orders.hears(ShippingCancelled(shipment_id=order_id, order_id=order_id))
    order = await orders.get(order_id)
    assert (order.state, order.cancel_reason) == (
        api.ORDER_STATE_CANCELLED,
        api.CANCEL_REASON_CUSTOMER_REQUEST,
    )
    assert await orders.published(order_id) == [
        "OrderCreated",
        "OrderConfirmed",
        "OrderCancelRequested",
        "OrderCancelled",
    ]


async def test_an_order_that_was_dispatched_meanwhile_is_not_cancelled(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    await orders.hears(prepared(order_id))
    await orders.cancel(order_id)
    for heard, state in (
        (dispatched(order_id), api.ORDER_STATE_SHIPPED),
        (delivered(order_id), api.ORDER_STATE_COMPLETED),
    ):
        await orders.hears(heard)
        error = await refusal(orders.cancel(order_id))
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "ORDER_ALREADY_SHIPPED",
        )
        assert (await orders.get(order_id)).state == state


async def test_cancels_at_once_ask_shipping_once(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    await orders.hears(prepared(order_id))
    answers = await asyncio.gather(*(orders.cancel(order_id) for _ in range(10)))
    assert {answer.state for answer in answers} == {api.ORDER_STATE_CANCELLING}
    assert (await orders.published(order_id)).count("OrderCancelRequested") == 1


async def test_of_a_cancel_and_a_shipment_at_once_the_first_decides(orders: Orders) -> None:
    placed = [(await orders.place()).order_id for _ in range(10)]
    await asyncio.gather(
        *(orders.streams.publish(prepared(order_id)) for order_id in placed), *map(orders.cancel, placed)
    )
    await orders.hears()
    for order_id in placed:
        state, published = (await orders.get(order_id)).state, await orders.published(order_id)
        if state == api.ORDER_STATE_CANCELLED:
            assert published == ["OrderCreated", "OrderCancelled"]
        else:
            assert state == api.ORDER_STATE_CANCELLING
            assert published == ["OrderCreated", "OrderConfirmed", "OrderCancelRequested"]


@on_postgres_only
async def test_cancels_at_two_instances_at_once_ask_shipping_once(order_settings: Settings, streams: Streams) -> None:
    second_settings = order_settings.model_copy(update={"instance": "2"})
    async with ordering(order_settings, streams) as first, ordering(second_settings, streams) as second:
        order_id = (await first.place()).order_id
        await streams.publish(prepared(order_id))
        await second.becomes(order_id, api.ORDER_STATE_CONFIRMED)
        answers = await asyncio.gather(*(one.cancel(order_id) for one in (first, second) * 5))
        assert {answer.state for answer in answers} == {api.ORDER_STATE_CANCELLING}
        assert (await second.published(order_id)).count("OrderCancelRequested") == 1


async def actions_of(orders: Orders) -> list[tuple[str, ...]]:
    """Return what operators did: who, what, to what, why."""
    columns = (getattr(tables.actions.c, name) for name in ("actor", "action", "target", "why", "outcome"))
    query = select(*columns).order_by(tables.actions.c.id)
    rows = await orders.service.reader.run(lambda connection: connection.execute(query).all())
    return [tuple(row) for row in rows]


async def test_an_operator_cancels_an_order_and_that_is_written_down_once(orders: Orders) -> None:
    pending, confirmed = [(await orders.place(user="bob")).order_id for _ in range(2)]
    await orders.hears(prepared(confirmed))
    assert (await orders.cancel(pending, note="stolen card")).cancel_reason == api.CANCEL_REASON_OPERATOR_REQUEST
    asked = await orders.cancel(confirmed, note="the address is a lake")
    assert (asked.state, asked.cancel_reason) == (api.ORDER_STATE_CANCELLING, api.CANCEL_REASON_UNSPECIFIED)
    for order_id in (pending, confirmed):
        await orders.cancel(order_id, note="again")
    await orders.hears(ShippingCancelled(shipment_id=confirmed, order_id=confirmed))
    for order_id in (pending, confirmed):
        assert (await orders.get(order_id)).cancel_reason == api.CANCEL_REASON_OPERATOR_REQUEST
    assert await actions_of(orders) == [
        (ADMIN, "cancel_order", pending, "stolen card", "from PENDING to CANCELLED"),
        (ADMIN, "cancel_order", confirmed, "the address is a lake", "from CONFIRMED to CANCELLING"),
    ]


async def test_customers_are_no_operators_and_what_is_refused_is_not_written_down(orders: Orders) -> None:
    order_id = (await orders.place(user="bob")).order_id
    error = await refusal(orders.cancel(order_id, "bob", note="I am the boss"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    await orders.hears(prepared(order_id), dispatched(order_id))
    assert (await refusal(orders.cancel(order_id, note="late"))).code() is grpc.StatusCode.FAILED_PRECONDITION
    assert list(violations(await refusal(orders.cancel(order_id, note="x" * 1001)))) == ["operator_note"]
    for order_as in ("bob", ""):
        assert list(violations(await refusal(orders.cancel(order_id, order_as, note=" \n")))) == ["operator_note"]
    assert await actions_of(orders) == []


async def test_an_admin_who_cancels_somebody_elses_order_is_an_operator_and_of_their_own_the_customer(
    orders: Orders,
) -> None:
    bobs, own = (await orders.place(user="bob")).order_id, (await orders.place()).order_id
    assert (await orders.cancel(bobs)).cancel_reason == api.CANCEL_REASON_OPERATOR_REQUEST
    assert (await orders.cancel(own)).cancel_reason == api.CANCEL_REASON_CUSTOMER_REQUEST
    assert await actions_of(orders) == [(ADMIN, "cancel_order", bobs, "", "from PENDING to CANCELLED")]


async def test_an_order_that_is_not_there_is_not_found(orders: Orders) -> None:
    for call in (orders.get(new_id()), orders.cancel(new_id()), watch(orders, new_id()).read()):
        error = await refusal(call)
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_malformed_order_id_is_named(orders: Orders) -> None:
    for order_id in MALFORMED_IDS:
        for call in (orders.get(order_id), orders.cancel(order_id), watch(orders, order_id).read()):
            assert violations(await refusal(call)) == {"order_id": ID_RULE}


async def test_orders_are_listed_page_by_page_newest_first(orders: Orders) -> None:
    placed = [(await orders.place(user=user)).order_id for user in ("ann", "bob", "ann", "ann", "bob")]
    await orders.cancel(placed[2])
    await orders.cancel(placed[4])
    newest_first = placed[::-1]
    cancelled = api.ORDER_STATE_CANCELLED
    assert await listed(orders, page_size=2) == [newest_first[0:2], newest_first[2:4], newest_first[4:]]
    assert await listed(orders) == [newest_first]
    assert await listed(orders, user_id="ann", page_size=2) == [[placed[3], placed[2]], [placed[0]]]
    assert await listed(orders, state=cancelled) == [[placed[4], placed[2]]]
    assert await listed(orders, user_id="bob", state=cancelled) == [[placed[4]]]
    assert await listed(orders, user_id="carl") == [[]]


async def test_orders_that_wait_for_a_decision_are_listed_by_how_long_they_have(orders: Orders) -> None:
    pending, cancelled, confirmed, cancelling = [(await orders.place()).order_id for _ in range(4)]
    await orders.cancel(cancelled)
    await orders.hears(prepared(confirmed), prepared(cancelling))
    await orders.cancel(cancelling)
    assert await listed(orders, unfinished_for=Duration()) == [[cancelling, pending]]
    assert await listed(orders, unfinished_for=Duration(), page_size=1) == [[cancelling], [pending]]
    assert await listed(orders, unfinished_for=Duration(), state=api.ORDER_STATE_PENDING) == [[pending]]
    assert await listed(orders, unfinished_for=Duration(seconds=60)) == [[]]
    page = await orders.stub.ListOrders(api.ListOrdersRequest(unfinished_for=Duration(), page_size=1))
    other = api.ListOrdersRequest(unfinished_for=Duration(seconds=1), page_token=page.next_page_token)
    assert list(violations(await refusal(orders.stub.ListOrders(other)))) == ["page_token"]


async def listed(orders: Orders, **wanted: Any) -> list[list[str]]:
    """Return the ids of the orders on each page."""
    request, pages = api.ListOrdersRequest(**wanted), list[list[str]]()
    while not pages or request.page_token:
        page = await orders.stub.ListOrders(request)
        pages.append([order.order_id for order in page.orders])
        request.page_token = page.next_page_token
    return pages


async def test_a_list_names_what_is_wrong_with_the_request(orders: Orders) -> None:
    wrong: list[dict[str, Any]] = [
        {"page_size": -1},
        {"page_size": 1001},
        {"page_token": "made-up"},
        {"user_id": "no.dots"},
        {"user_id": "nul\0"},
        {"state": 99},
        {"unfinished_for": Duration(seconds=-1)},
        {"unfinished_for": Duration(seconds=10**11)},
    ]
    for fields in wrong:
        error = await refusal(orders.stub.ListOrders(api.ListOrdersRequest(**fields)))
        assert list(violations(error)) == list(fields)


async def test_every_list_reads_an_index_and_sorts_nothing(orders: Orders) -> None:
    for filters in ({}, {"user_id": "ann"}, {"state": State.PENDING}, {"user_id": "ann", "state": State.PENDING}):
        for first in (True, False):
            plan = await orders.service.reader.run(plan_of_list, filters, first=first)
            assert "INDEX" in plan, plan
            assert "SORT" not in plan, plan
            assert "TEMP B-TREE" not in plan, plan


def plan_of_list(connection: Connection, filters: dict[str, Any], *, first: bool) -> str:
    """Return, in capitals, how the database runs the query of a list: of its first page, or another one."""
    seen: list[tuple[str, Any]] = []

    def remember(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        # It would not use an index on so small a table.
        connection.exec_driver_sql("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
    wanted = PageRequest.of(api.ListOrdersRequest(page_size=2))
    if not first:
        wanted = replace(wanted, token=listing(connection, wanted).token_of(new_id()))
    event.listen(connection, "before_cursor_execute", remember)
    queries.list_orders(connection, wanted, **filters)
    event.remove(connection, "before_cursor_execute", remember)
    statement, parameters = seen[-1]
    explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
    plan = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
    if not is_sqlite:
        connection.exec_driver_sql("RESET ALL")
    return str(plan).upper()


async def test_a_watch_sends_the_order_and_each_change_and_ends_with_it(orders: Orders) -> None:
    placed = await orders.place()
    order_id = placed.order_id
    watching = watch(orders, order_id)
    assert (await watching.read()).order == placed
    await orders.hears(prepared(order_id))
    assert (await watching.read()).order.state == api.ORDER_STATE_CONFIRMED
    await orders.hears(PaymentFailed(order_id=order_id, reason="too late"), prepared(order_id))
    await orders.hears(dispatched(order_id))
    assert (await watching.read()).order.state == api.ORDER_STATE_SHIPPED
    await orders.hears(delivered(order_id))
    assert (await watching.read()).order == await orders.get(order_id)
    assert await watching.read() is grpc.aio.EOF
    assert await watching.code() is grpc.StatusCode.OK


async def test_a_watch_of_an_ended_order_sends_it_once(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    cancelled = await orders.cancel(order_id)
    assert [answer.order async for answer in watch(orders, order_id)] == [cancelled]


async def test_a_watch_that_is_given_up_leaves_nothing_behind(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    watching = watch(orders, order_id)
    await watching.read()
    assert orders.service.changes._waiting
    watching.cancel()
    await eventually(lambda: not orders.service.changes._waiting, what="nobody watches")


@on_postgres_only
async def test_a_watch_sees_what_another_instance_changes_and_goes_on_there(
    order_settings: Settings, streams: Streams
) -> None:
    second_settings = order_settings.model_copy(update={"instance": "2"})
    async with ordering(order_settings, streams) as first, ordering(second_settings, streams) as second:
        order_id = (await first.place()).order_id
        watching = watch(first, order_id)
        seen = (await watching.read()).position
        elsewhere = second.stub.WatchOrder(api.WatchOrderRequest(order_id=order_id, after_position=seen))
        cancelled = await second.cancel(order_id)
        for one in (watching, elsewhere):
            assert (await one.read()).order == cancelled
            assert await one.read() is grpc.aio.EOF


async def test_a_watch_is_told_to_come_back_when_the_service_stops(
    order_settings: Settings, streams: Streams, product: FakeProduct
) -> None:
    async with ordering(order_settings, streams) as orders:
        order_id = (await orders.place()).order_id
        watching = watch(orders, order_id)
        await watching.read()
        async with asyncio.timeout(order_settings.drain_seconds / 2):
            stopping = asyncio.create_task(orders.service.stop())
            error = await refusal(watching.read())
            await stopping
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
