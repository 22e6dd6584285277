"""Inventory as a service: stock that comes in, is promised to orders, given back and shipped."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress

from commerce.inventory.v1 import inventory_service_pb2 as api
from commerce.inventory.v1.inventory_events_pb2 import (
    InventoryRejected,
    InventoryReleased,
    InventoryReserved,
    InventoryUpdated,
    ReservedLine,
)
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderCreated
from commerce.order.v1.order_service_pb2 import OrderLine
from commerce.product.v1.product_events_pb2 import ProductCreated
from commerce.shipping.v1.shipping_events_pb2 import ShippingDispatched
from services.inventory import commands
from services.inventory.service import build
from services.inventory.settings import Settings
from tests.component.support import calling, count, handled_all, reason, running, violations
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from tests.component.support import NewDatabase, Streams
    from weft import Service

PRICE = Money(currency_code="CHF", units=5)


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str) -> Settings:
    return Settings(database_url=await new_database_url("inventory"), nats_url=nats_url)


def order(**quantities: int) -> OrderCreated:
    """Return a new order of these pieces by sku."""
    lines = [OrderLine(sku=sku, quantity=number, unit_price=PRICE) for sku, number in quantities.items()]
    return OrderCreated(
        order_id=new_id(),
        user_id="u1",
        lines=lines,
        total=PRICE,
        ship_to=PostalAddress(region_code="CH"),
        payment_token="tok_ok",
    )


def lines(**quantities: int) -> list[ReservedLine]:
    return [ReservedLine(sku=sku, quantity=number) for sku, number in quantities.items()]


async def hear(service: Service, streams: Streams, *events: Message) -> None:
    """Have the service handle events, each before the next is there."""
    for event in events:
        await streams.publish(event)
        await handled_all(service)


async def stocked(service: Service, streams: Streams, **pieces: int) -> None:
    """Have these pieces of new products in stock."""
    for sku, number in pieces.items():
        await hear(service, streams, ProductCreated(sku=sku, title=sku, price=PRICE, active=True, revision=1))
        if number:
            await restock(service, sku, number)


async def restock(service: Service, sku: str, quantity: int) -> api.Stock:
    async with calling(service) as channel:
        request = api.RestockRequest(sku=sku, quantity=quantity)
        reply: api.RestockResponse = await InventoryServiceStub(channel).Restock(request)
        return reply.stock


async def stock_of(service: Service, sku: str) -> api.Stock:
    async with calling(service) as channel:
        reply: api.GetStockResponse = await InventoryServiceStub(channel).GetStock(api.GetStockRequest(sku=sku))
        return reply.stock


async def level(service: Service, sku: str) -> tuple[int, int, int]:
    """Return how many pieces are on hand, reserved and available."""
    stock = await stock_of(service, sku)
    return stock.on_hand, stock.reserved, stock.available


async def published(streams: Streams, order_id: str) -> Sequence[str]:
    return await streams.types_of("commerce.inventory", order_id)


async def updates(service: Service, streams: Streams, sku: str) -> list[InventoryUpdated]:
    """Return the levels of a sku that were published, up to the one that is stored now."""
    now = await stock_of(service, sku)

    async def told() -> list[InventoryUpdated]:
        stored = await streams.reader("commerce.inventory").of(sku)
        levels = [event.body for event in stored if isinstance(event.body, InventoryUpdated)]
        return levels if levels and levels[-1].revision >= now.revision else []

    return await eventually(told, what=f"revision {now.revision} of {sku} is told")


async def test_a_new_product_begins_with_nothing_in_stock(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=0)
        assert await stock_of(service, "tea") == api.Stock(sku="tea", revision=1)
        stocked_up = await restock(service, "tea", 7)
        assert stocked_up == api.Stock(sku="tea", on_hand=7, available=7, revision=2)
        await hear(service, streams, ProductCreated(sku="tea", title="tea", price=PRICE, active=True, revision=1))
        assert await stock_of(service, "tea") == stocked_up


async def test_an_order_is_promised_all_of_its_lines(settings: Settings, streams: Streams) -> None:
    placed = order(tea=2, cup=1)
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=5, cup=1)
        await hear(service, streams, placed)
        event = await streams.wait_for(InventoryReserved, placed.order_id)
        assert await level(service, "tea") == (5, 2, 3)
        assert await level(service, "cup") == (1, 1, 0)
    assert event.body == InventoryReserved(order_id=placed.order_id, lines=lines(tea=2, cup=1))


async def test_an_order_that_lacks_one_line_is_promised_none(settings: Settings, streams: Streams) -> None:
    placed = order(tea=2, cup=2, pot=1)
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=5, cup=1)
        await hear(service, streams, placed)
        event = await streams.wait_for(InventoryRejected, placed.order_id)
        await hear(service, streams, OrderCancelled(order_id=placed.order_id))
        assert await level(service, "tea") == (5, 0, 5)
        assert await level(service, "cup") == (1, 0, 1)
        assert await published(streams, placed.order_id) == ["InventoryRejected"]
    assert event.body == InventoryRejected(order_id=placed.order_id, missing_skus=["cup", "pot"])


async def test_the_last_piece_is_promised_to_one_of_many_orders(settings: Settings, streams: Streams) -> None:
    placed = [order(tea=1) for _ in range(5)]
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=1)
        await asyncio.gather(*(streams.publish(one) for one in placed))
        await handled_all(service)
        assert await level(service, "tea") == (1, 1, 0)
        assert await count(service, "reservations", "state = 'RESERVED'") == 1
        assert await count(service, "reservations", "state = 'REJECTED'") == 4


async def test_a_cancelled_orders_stock_is_available_again(settings: Settings, streams: Streams) -> None:
    placed = order(tea=2)
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=5)
        cancelled = OrderCancelled(order_id=placed.order_id)
        await hear(service, streams, placed, cancelled, cancelled)
        event = await streams.wait_for(InventoryReleased, placed.order_id)
        assert await level(service, "tea") == (5, 0, 5)
    assert event.body == InventoryReleased(order_id=placed.order_id, lines=lines(tea=2))
    assert await published(streams, placed.order_id) == ["InventoryReserved", "InventoryReleased"]


async def test_a_dispatched_orders_pieces_have_left_the_warehouse(settings: Settings, streams: Streams) -> None:
    placed = order(tea=2)
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=5)
        dispatched = ShippingDispatched(shipment_id=placed.order_id, order_id=placed.order_id)
        await hear(service, streams, placed, dispatched, dispatched)
        assert await level(service, "tea") == (3, 0, 3)
        assert await count(service, "reservations", "state = 'SHIPPED'") == 1


async def test_an_order_that_was_cancelled_before_it_was_heard_of_holds_nothing(
    settings: Settings, streams: Streams
) -> None:
    placed = order(tea=2)
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=5)
        await hear(service, streams, OrderCancelled(order_id=placed.order_id), placed)
        assert await level(service, "tea") == (5, 0, 5)
        assert await count(service, "reservations", "state = 'VOIDED'") == 1
        assert await count(service, "outbox", f"aggregate_id = '{placed.order_id}'") == 0


async def test_an_order_that_is_heard_of_again_is_promised_its_lines_once(settings: Settings, streams: Streams) -> None:
    placed = order(tea=2)
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=5)
        await hear(service, streams, placed, placed)
        assert await level(service, "tea") == (5, 2, 3)
        await streams.wait_for(InventoryReserved, placed.order_id)
    assert await published(streams, placed.order_id) == ["InventoryReserved"]


async def test_each_change_of_a_sku_is_told_once_with_the_next_revision(settings: Settings, streams: Streams) -> None:
    placed = [order(tea=1, cup=2) for _ in range(20)]
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=100, cup=30)
        await asyncio.gather(*(streams.publish(one) for one in placed))
        await asyncio.gather(*(streams.publish(OrderCancelled(order_id=one.order_id)) for one in placed[:5]))
        await handled_all(service)
        for sku in ("tea", "cup"):
            stock = await stock_of(service, sku)
            told = await updates(service, streams, sku)
            assert [one.revision for one in told] == list(range(1, stock.revision + 1))
            last = told[-1]
            assert (last.on_hand, last.reserved, last.available) == await level(service, sku)
            assert all(one.available == one.on_hand - one.reserved for one in told)


async def test_a_transaction_of_many_changes_tells_a_skus_level_once(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=1)
        free = threading.Event()
        busy = asyncio.create_task(service.writer.transact(lambda _: free.wait(10)))
        together = [asyncio.create_task(service.writer.run(commands.restock, "tea", n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)  # all of them wait for the writer now
        free.set()
        await asyncio.gather(busy, *together)
        told = await updates(service, streams, "tea")
    assert [(one.revision, one.on_hand) for one in told] == [(1, 0), (2, 1), (3, 7)]


async def test_what_cannot_be_restocked_is_refused_with_the_fields_name(settings: Settings, streams: Streams) -> None:
    async with running(build(settings)) as service:
        await stocked(service, streams, tea=1)
        for quantity in (0, -1, 1_000_001):
            with pytest.raises(grpc.aio.AioRpcError) as wrong:
                await restock(service, "tea", quantity)
            assert list(violations(wrong.value)) == ["quantity"]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await restock(service, "pot", 1)
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await stock_of(service, "pot")
        for error in (unknown.value, missing.value):
            assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert await level(service, "tea") == (1, 0, 1)
