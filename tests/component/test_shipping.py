"""Shipping as a service: what it waits for, what it refuses, and how it decides between dispatch and cancel."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress

from commerce.inventory.v1.inventory_events_pb2 import InventoryReserved, ReservedLine
from commerce.order.v1.order_events_pb2 import (
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderCreated,
)
from commerce.order.v1.order_service_pb2 import OrderLine
from commerce.payment.v1.payment_events_pb2 import PaymentCompleted
from commerce.shipping.v1 import shipping_service_pb2 as api
from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingCancelled,
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from commerce.shipping.v1.shipping_service_pb2_grpc import ShippingServiceStub
from services.shipping.service import build
from services.shipping.settings import Settings
from tests.component.support import calling, count, handled_all, reason, running, violations
from weft.domain import new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from tests.component.support import NewDatabase, Streams
    from weft import Service

HOME = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1"], recipients=["Ada"])
PRICE = Money(currency_code="CHF", units=5)


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str) -> Settings:
    return Settings(database_url=await new_database_url("shipping"), nats_url=nats_url)


def created(order_id: str) -> OrderCreated:
    return OrderCreated(
        order_id=order_id,
        user_id="u1",
        lines=[
            OrderLine(sku="tea", quantity=2, unit_price=PRICE),
            OrderLine(sku="cup", quantity=1, unit_price=PRICE),
        ],
        total=Money(currency_code="CHF", units=15),
        ship_to=HOME,
        payment_token="tok_ok",
    )


def paid(order_id: str) -> PaymentCompleted:
    return PaymentCompleted(order_id=order_id, amount=PRICE, charge_reference="ch_1")


def reserved(order_id: str) -> InventoryReserved:
    return InventoryReserved(order_id=order_id, lines=[ReservedLine(sku="tea", quantity=2)])


async def hear(service: Service, streams: Streams, *events: Message) -> None:
    """Have the service handle events, each before the next is there."""
    for event in events:
        await streams.publish(event)
        await handled_all(service)


async def prepared(service: Service, streams: Streams) -> str:
    """Return the id of a new order whose shipment is prepared."""
    order_id = new_id()
    await hear(service, streams, created(order_id), paid(order_id), reserved(order_id))
    return order_id


async def confirmed(service: Service, streams: Streams) -> str:
    """Return the id of a new order whose shipment may be dispatched."""
    order_id = await prepared(service, streams)
    await hear(service, streams, OrderConfirmed(order_id=order_id))
    return order_id


async def published(streams: Streams, order_id: str) -> Sequence[str]:
    return await streams.types_of("commerce.shipping", order_id)


async def shipment_of(service: Service, order_id: str) -> api.Shipment:
    async with calling(service) as channel:
        request = api.GetShipmentRequest(order_id=order_id)
        reply: api.GetShipmentResponse = await ShippingServiceStub(channel).GetShipment(request)
        return reply.shipment


async def dispatch(service: Service, shipment_id: str) -> api.Shipment:
    async with calling(service) as channel:
        request = api.DispatchRequest(shipment_id=shipment_id)
        reply: api.DispatchResponse = await ShippingServiceStub(channel).Dispatch(request)
        return reply.shipment


async def deliver(service: Service, shipment_id: str) -> api.Shipment:
    async with calling(service) as channel:
        request = api.DeliverRequest(shipment_id=shipment_id)
        reply: api.DeliverResponse = await ShippingServiceStub(channel).Deliver(request)
        return reply.shipment


async def test_a_shipment_is_prepared_when_order_payment_and_stock_are_there_in_any_order(
    settings: Settings, streams: Streams
) -> None:
    async with running(build(settings)) as service:
        for first, second, last in permutations((created, paid, reserved)):
            order_id = new_id()
            await hear(service, streams, first(order_id), second(order_id))
            assert (await shipment_of(service, order_id)).state == api.SHIPMENT_STATE_WAITING
            await hear(service, streams, last(order_id))
            shipment = await shipment_of(service, order_id)
            assert shipment.state == api.SHIPMENT_STATE_PREPARED
            assert [(line.sku, line.quantity) for line in shipment.lines] == [("tea", 2), ("cup", 1)]
            assert shipment.ship_to == HOME
            event = await streams.wait_for(ShippingPrepared, order_id)
            assert event.body == ShippingPrepared(shipment_id=order_id, order_id=order_id)
            assert shipment.create_time.ToNanoseconds() < shipment.update_time.ToNanoseconds()


async def test_what_is_heard_again_prepares_nothing_again(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        order_id = await prepared(service, streams)
        before = await shipment_of(service, order_id)
        await hear(service, streams, reserved(order_id), paid(order_id), created(order_id))
        assert await shipment_of(service, order_id) == before
        await streams.wait_for(ShippingPrepared, order_id)
    assert await published(streams, order_id) == ["ShippingPrepared"]


async def test_a_shipment_is_dispatched_only_once_its_order_is_confirmed(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        order_id = new_id()
        await hear(service, streams, created(order_id))
        with pytest.raises(grpc.aio.AioRpcError) as waiting:
            await dispatch(service, order_id)
        await hear(service, streams, paid(order_id), reserved(order_id))
        with pytest.raises(grpc.aio.AioRpcError) as unconfirmed:
            await dispatch(service, order_id)
        await hear(service, streams, OrderConfirmed(order_id=order_id))
        assert (await dispatch(service, order_id)).state == api.SHIPMENT_STATE_DISPATCHED
        event = await streams.wait_for(ShippingDispatched, order_id)
    assert event.body == ShippingDispatched(shipment_id=order_id, order_id=order_id)
    assert waiting.value.code() is unconfirmed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert [reason(waiting.value), reason(unconfirmed.value)] == [
        "SHIPMENT_NOT_PREPARED",
        "ORDER_NOT_CONFIRMED",
    ]


async def test_dispatching_and_delivering_again_change_nothing(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        order_id = await confirmed(service, streams)
        with pytest.raises(grpc.aio.AioRpcError) as early:
            await deliver(service, order_id)
        dispatched = await dispatch(service, order_id)
        assert await dispatch(service, order_id) == dispatched
        delivered = await deliver(service, order_id)
        assert delivered.state == api.SHIPMENT_STATE_DELIVERED
        assert await deliver(service, order_id) == await dispatch(service, order_id) == delivered
        await streams.wait_for(ShippingDelivered, order_id)
    assert reason(early.value) == "SHIPMENT_NOT_DISPATCHED"
    assert await published(streams, order_id) == ["ShippingPrepared", "ShippingDispatched", "ShippingDelivered"]


async def test_a_cancel_that_is_requested_before_the_dispatch_stops_the_shipment(
    settings: Settings, streams: Streams
) -> None:
    async with running(build(settings)) as service:
        order_id = await confirmed(service, streams)
        await hear(service, streams, OrderCancelRequested(order_id=order_id))
        event = await streams.wait_for(ShippingCancelled, order_id)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await dispatch(service, order_id)
        await hear(service, streams, OrderCancelled(order_id=order_id))
        assert (await shipment_of(service, order_id)).state == api.SHIPMENT_STATE_CANCELLED
    assert event.body == ShippingCancelled(shipment_id=order_id, order_id=order_id)
    assert reason(refused.value) == "SHIPMENT_CANCELLED"
    assert await published(streams, order_id) == ["ShippingPrepared", "ShippingCancelled"]


async def test_a_cancel_that_is_requested_after_the_dispatch_comes_too_late(
    settings: Settings, streams: Streams
) -> None:
    async with running(build(settings)) as service:
        order_id = await confirmed(service, streams)
        dispatched = await dispatch(service, order_id)
        await hear(service, streams, OrderCancelRequested(order_id=order_id))
        assert await shipment_of(service, order_id) == dispatched
        await streams.wait_for(ShippingDispatched, order_id)
    assert await published(streams, order_id) == ["ShippingPrepared", "ShippingDispatched"]


async def test_of_a_dispatch_and_a_cancel_at_the_same_time_one_wins(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        ids = [await confirmed(service, streams) for _ in range(4)]
        calls = [asyncio.create_task(dispatch(service, one)) for one in ids]
        await asyncio.gather(*(streams.publish(OrderCancelRequested(order_id=one)) for one in ids))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await handled_all(service)
        for order_id, answer in zip(ids, answers, strict=True):
            won: type[ShippingDispatched | ShippingCancelled] = ShippingDispatched
            if isinstance(answer, grpc.aio.AioRpcError):
                assert reason(answer) == "SHIPMENT_CANCELLED"
                won = ShippingCancelled
            await streams.wait_for(won, order_id)
            assert await published(streams, order_id) == ["ShippingPrepared", won.DESCRIPTOR.name]


async def test_an_order_that_was_cancelled_before_it_was_heard_of_is_never_shipped(
    settings: Settings, streams: Streams
) -> None:
    order_id = new_id()
    async with running(build(settings)) as service:
        late = (created(order_id), reserved(order_id), paid(order_id), OrderConfirmed(order_id=order_id))
        await hear(service, streams, OrderCancelled(order_id=order_id), *late)
        shipment = await shipment_of(service, order_id)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await dispatch(service, order_id)
        assert await count(service, "outbox") == 0
    assert shipment.state == api.SHIPMENT_STATE_CANCELLED
    assert not shipment.HasField("ship_to")
    assert reason(refused.value) == "SHIPMENT_CANCELLED"


@pytest.mark.parametrize("event", [OrderCancelled, OrderCancelRequested])
async def test_a_cancelled_shipment_forgets_where_the_customer_lives(
    settings: Settings, streams: Streams, event: type[OrderCancelled | OrderCancelRequested]
) -> None:
    async with running(build(settings)) as service:
        order_id = await confirmed(service, streams)
        assert await count(service, "shipments", "ship_to IS NOT NULL") == 1
        await hear(service, streams, event(order_id=order_id))
        assert await count(service, "shipments", "ship_to IS NULL") == 1
        shipment = await shipment_of(service, order_id)
    assert shipment.state == api.SHIPMENT_STATE_CANCELLED
    assert not shipment.HasField("ship_to")
    assert len(shipment.lines) == 2


async def test_what_cannot_be_shipped_is_refused_with_the_fields_name(settings: Settings) -> None:
    unknown = new_id()
    async with running(build(settings)) as service:
        for call, field in ((dispatch, "shipment_id"), (deliver, "shipment_id"), (shipment_of, "order_id")):
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await call(service, unknown)
            assert (missing.value.code(), reason(missing.value)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
            for malformed in ("", "a.b", "a" * 65, "a\0"):
                with pytest.raises(grpc.aio.AioRpcError) as wrong:
                    await call(service, malformed)
                assert list(violations(wrong.value)) == [field]
