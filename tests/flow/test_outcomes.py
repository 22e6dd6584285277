"""Every way in which an order can end, through all services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.type.money_pb2 import Money

from cli.chaos.books import Amount
from tests.flow.audit import audit
from tests.flow.shop import reason_of, refused
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.flow.shop import Shop


async def test_an_order_is_confirmed_once_it_is_paid_reserved_and_prepared(shop: Shop) -> None:
    mug, scarf = await shop.offer(10), await shop.offer(10, Money(currency_code="EUR", units=39, nanos=500_000_000))
    order_id = await shop.order({mug: 3, scarf: 1})
    order = await shop.becomes(order_id, "CONFIRMED")
    assert Amount.of(order.total) == ("EUR", 54_500_000_000)
    books = await audit(shop)
    assert books.charges[order_id] == [("EUR", 54_500_000_000)]
    assert [(await shop.stock(sku)).reserved for sku in (mug, scarf)] == [3, 1]
    assert await shop.shipment_state(order_id) == "PREPARED"


async def test_a_declined_card_releases_the_stock(shop: Shop) -> None:
    sku = await shop.offer(1)
    order_id = await shop.order(sku, "tok_declined")
    assert reason_of(await shop.becomes(order_id, "CANCELLED")) == "PAYMENT_DECLINED"
    books = await audit(shop)
    assert order_id not in books.charges
    assert (await shop.stock(sku)).available == 1
    assert books.history[order_id]["InventoryReleased"] == 1


async def test_what_is_out_of_stock_is_never_charged_or_refunded(shop: Shop) -> None:
    scarce, plenty = await shop.offer(1), await shop.offer(100)
    order_id = await shop.order({scarce: 2, plenty: 1})
    assert reason_of(await shop.becomes(order_id, "CANCELLED")) == "OUT_OF_STOCK"
    books = await audit(shop)
    assert books.charges.get(order_id) == books.refunds.get(order_id)
    assert [(await shop.stock(sku)).available for sku in (scarce, plenty)] == [1, 100]


async def test_a_slow_answer_of_the_provider_is_waited_for(shop: Shop) -> None:
    order_id = await shop.order(await shop.offer(1), "tok_slow")
    await shop.becomes(order_id, "CONFIRMED")
    await audit(shop)


async def test_an_answer_that_never_comes_charges_once(shop: Shop) -> None:
    order_id = await shop.order(await shop.offer(1), "tok_timeout")
    await shop.becomes(order_id, "CONFIRMED")
    books = await audit(shop)
    assert books.charges[order_id] == [("EUR", 5_000_000_000)]


async def test_an_order_that_costs_nothing_is_confirmed_and_cancelled_without_the_provider(shop: Shop) -> None:
    sku = await shop.offer(2, Money(currency_code="EUR"))
    kept, cancelled = await shop.order(sku), await shop.order(sku)
    for order_id in (kept, cancelled):
        await shop.becomes(order_id, "CONFIRMED")
    await shop.cancel(cancelled)
    await shop.becomes(cancelled, "CANCELLED")
    books = await audit(shop)
    assert {kept, cancelled}.isdisjoint(books.charges)
    assert books.payments[kept] == "COMPLETED"


@pytest.mark.parametrize(
    ("units", "nanos", "quantity", "total"),
    [
        (0, 1, 1, 1),
        (0, 333_333_333, 3, 999_999_999),
        (12, 345_678_901, 7, 86_419_752_307),
        (899_999, 999_999_999, 10_000, 8_999_999_999_999_990_000),
    ],
)
async def test_money_is_exact_to_the_billionth(shop: Shop, units: int, nanos: int, quantity: int, total: int) -> None:
    sku = await shop.offer(quantity, Money(currency_code="CHF", units=units, nanos=nanos))
    order_id = await shop.order({sku: quantity})
    order = await shop.becomes(order_id, "CONFIRMED")
    assert Amount.of(order.total) == ("CHF", total)
    books = await audit(shop)
    assert books.charges[order_id] == [("CHF", total)]


async def test_a_delivered_order_is_completed_and_its_pieces_are_gone(shop: Shop) -> None:
    sku = await shop.offer(5)
    order_id = await shop.order({sku: 2})
    await shop.becomes(order_id, "CONFIRMED")
    # Shipping may hear of the confirmation a moment later.
    await eventually(lambda: shop.dispatch(order_id))
    await shop.becomes(order_id, "SHIPPED")
    assert await refused(shop.cancel(order_id)) is grpc.StatusCode.FAILED_PRECONDITION
    await shop.deliver(order_id)
    await shop.becomes(order_id, "COMPLETED")
    await audit(shop)
    stock = await shop.stock(sku)
    assert (stock.on_hand, stock.reserved) == (3, 0)


async def test_a_shipment_is_not_dispatched_before_its_order_is_confirmed(shop: Shop) -> None:
    order_id = await shop.order(await shop.offer(1), "tok_slow")
    await eventually(lambda: shop.shipment_state(order_id))
    assert await refused(shop.dispatch(order_id)) is grpc.StatusCode.FAILED_PRECONDITION
    await shop.becomes(order_id, "CONFIRMED")
    await audit(shop)


async def test_a_watcher_sees_every_state_of_an_order_in_turn(shop: Shop) -> None:
    order_id = await shop.order(await shop.offer(1))
    await shop.becomes(order_id, "CONFIRMED")
    watching = shop.watch(order_id)
    assert await anext(watching) == "CONFIRMED"
    await shop.cancel(order_id)
    rest = [state async for state in watching]
    assert rest in (["CANCELLING", "CANCELLED"], ["CANCELLED"])
    await audit(shop)


async def test_a_customer_cancels_a_pending_order_whose_charge_is_then_refunded(shop: Shop) -> None:
    sku = await shop.offer(1)
    order_id = await shop.order(sku, "tok_slow")
    assert await shop.cancel(order_id) == "CANCELLED"
    assert await shop.cancel(order_id) == "CANCELLED"
    books = await audit(shop)
    assert reason_of(books.orders[order_id]) == "CUSTOMER_REQUEST"
    assert books.refunds[order_id] == [("EUR", 5_000_000_000)]
    assert (await shop.stock(sku)).available == 1


async def test_a_customer_cancels_a_confirmed_order(shop: Shop) -> None:
    sku = await shop.offer(1)
    order_id = await shop.order(sku)
    await shop.becomes(order_id, "CONFIRMED")
    assert await shop.cancel(order_id) == "CANCELLING"
    order = await shop.becomes(order_id, "CANCELLED")
    assert reason_of(order) == "CUSTOMER_REQUEST"
    books = await audit(shop)
    assert books.refunds[order_id] == [("EUR", 5_000_000_000)]
    assert await shop.shipment_state(order_id) == "CANCELLED"
    assert (await shop.stock(sku)).available == 1
    assert await refused(shop.dispatch(order_id)) is grpc.StatusCode.FAILED_PRECONDITION
