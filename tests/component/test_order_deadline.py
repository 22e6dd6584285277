"""The deadline of an order: when it begins, whom it cancels, and that an outage cancels nobody."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from commerce.inventory.v1.inventory_events_pb2 import InventoryRejected
from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderCreated
from commerce.payment.v1.payment_events_pb2 import PaymentFailed
from commerce.shipping.v1.shipping_events_pb2 import ShippingPrepared
from tests.component.orders import CONTEXT, ordering
from tests.component.support import count
from weft import micros
from weft.clock import ManualClock
from weft.testing import eventually

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from services.order.settings import Settings
    from tests.component.orders import Orders
    from tests.component.support import Streams
    from weft.embedded import NatsServer

HOUR = timedelta(hours=1)
DEADLINE = timedelta(seconds=30)


def prepared(order_id: str) -> ShippingPrepared:
    return ShippingPrepared(shipment_id=order_id, order_id=order_id)


async def due_at(orders: Orders) -> int | None:
    """Return when the only deadline is due, in microseconds; None while it waits for the publication."""

    def select(connection: Connection) -> int | None:
        due: int | None = connection.execute(text("SELECT due_at FROM intents")).scalar_one()
        return due

    return await orders.service.reader.run(select)


async def test_an_order_that_nobody_decides_is_cancelled_at_its_deadline(
    order_settings: Settings, streams: Streams
) -> None:
    hasty = order_settings.model_copy(update={"order_deadline": 0.2})
    async with ordering(hasty, streams) as orders:
        placed = await orders.place()
        order = await orders.becomes(placed.order_id, api.ORDER_STATE_CANCELLED)
        assert order.cancel_reason == api.CANCEL_REASON_DEADLINE_EXCEEDED
        took = order.update_time.ToMicroseconds() - placed.create_time.ToMicroseconds()
        assert took >= 200_000
        event = await streams.wait_for(OrderCancelled, placed.order_id)
        assert event.body == OrderCancelled(
            order_id=placed.order_id, reason=api.CANCEL_REASON_DEADLINE_EXCEEDED, user_id="ann"
        )
        assert await count(orders.service, "intents") == 0


async def test_a_decided_order_has_no_deadline_any_more(orders: Orders) -> None:
    placed = [(await orders.place()).order_id for _ in range(4)]
    assert await count(orders.service, "intents") == 4
    await orders.cancel(placed[0])
    await orders.hears(
        PaymentFailed(order_id=placed[1], reason="declined"),
        InventoryRejected(order_id=placed[2], missing_skus=["mug"]),
        prepared(placed[3]),
    )
    assert await count(orders.service, "intents") == 0


async def test_the_deadline_begins_when_the_order_is_published(
    order_settings: Settings, streams: Streams, broker: NatsServer
) -> None:
    clock = ManualClock()
    async with ordering(order_settings, streams, clock) as orders:
        await broker.kill()
        order_id = (await orders.place()).order_id
        clock.advance(HOUR)
        assert await due_at(orders) is None
        await broker.start()
        await streams.wait_for(OrderCreated, order_id)
        due = await eventually(lambda: due_at(orders), what="the deadline has begun")
        assert due == micros(clock.now() + DEADLINE)
        assert (await orders.get(order_id)).state == api.ORDER_STATE_PENDING
        clock.advance(DEADLINE)
        order = await orders.becomes(order_id, api.ORDER_STATE_CANCELLED)
        assert order.cancel_reason == api.CANCEL_REASON_DEADLINE_EXCEEDED


async def test_an_order_that_was_not_published_before_a_stop_is_published_after(
    order_settings: Settings, streams: Streams, broker: NatsServer
) -> None:
    clock = ManualClock()
    async with ordering(order_settings, streams, clock) as orders:
        await broker.kill()
        order_id = (await orders.place()).order_id
    await broker.start()
    clock.advance(HOUR)
    async with ordering(order_settings, streams, clock) as orders:
        await streams.wait_for(OrderCreated, order_id)
        await orders.hears(prepared(order_id))
        assert await orders.published(order_id) == ["OrderCreated", "OrderConfirmed"]


async def test_a_deadline_that_passes_while_the_service_is_down_waits_for_what_was_said_meanwhile(
    order_settings: Settings, streams: Streams
) -> None:
    clock = ManualClock()
    async with ordering(order_settings, streams, clock) as orders:
        placed = [(await orders.place()).order_id for _ in range(20)]
        for order_id in placed:
            await streams.wait_for(OrderCreated, order_id)
        await eventually(lambda: all_began(orders), what="the deadlines have begun")
    for order_id in placed[1:]:
        await streams.publish(prepared(order_id))
    clock.advance(HOUR)
    async with ordering(order_settings, streams, clock) as orders:
        clock.advance(DEADLINE)  # it counts anew from the start: others may not have had their time either
        forgotten = await orders.becomes(placed[0], api.ORDER_STATE_CANCELLED)
        assert forgotten.cancel_reason == api.CANCEL_REASON_DEADLINE_EXCEEDED
        for order_id in placed[1:]:
            assert (await orders.get(order_id)).state == api.ORDER_STATE_CONFIRMED
            assert await orders.published(order_id) == ["OrderCreated", "OrderConfirmed"]


async def all_began(orders: Orders) -> bool:
    return await count(orders.service, "intents", "due_at IS NULL") == 0


@pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
async def test_while_the_broker_is_away_no_deadline_cancels_an_order(
    order_settings: Settings, streams: Streams, broker: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "weft.intents")
    clock = ManualClock()
    async with ordering(order_settings, streams, clock) as orders:
        answered, forgotten = (await orders.place()).order_id, (await orders.place()).order_id
        await orders.published(answered)
        await orders.published(forgotten)
        await broker.kill()
        clock.advance(HOUR)
        await eventually(lambda: "timers wait for the broker" in caplog.text, what="the deadline is held back")
        assert (await orders.get(answered)).state == api.ORDER_STATE_PENDING
        await broker.start()
        # Nobody could answer while the broker was away, so the deadline counts anew from its return.
        await eventually(lambda: streams.connected, what="the others are connected again")
        await streams.publish(prepared(answered))
        await orders.becomes(answered, api.ORDER_STATE_CONFIRMED)
        assert (await orders.get(forgotten)).state == api.ORDER_STATE_PENDING

        async def cancelled() -> bool:
            clock.advance(DEADLINE)
            return (await orders.get(forgotten)).state == api.ORDER_STATE_CANCELLED

        await eventually(cancelled, what="the deadline of the forgotten order")
    assert await streams.types_of(CONTEXT, answered) == ["OrderCreated", "OrderConfirmed"]
