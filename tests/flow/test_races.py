"""What happens at the same moment: somebody wins, and everybody agrees on who."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.flow.audit import audit
from tests.flow.shop import reason_of, refused, state_of
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.flow.shop import Shop


async def test_competing_orders_get_exactly_the_pieces_that_there_are(shop: Shop) -> None:
    sku = await shop.offer(10)
    placed = await asyncio.gather(*(shop.order(sku) for _ in range(25)))
    books = await audit(shop)
    assert Counter(state_of(books.orders[one]) for one in placed) == {"CONFIRMED": 10, "CANCELLED": 15}
    assert {reason_of(books.orders[one]) for one in placed} == {"UNSPECIFIED", "OUT_OF_STOCK"}
    confirmed = [one for one in placed if state_of(books.orders[one]) == "CONFIRMED"]
    await asyncio.gather(*(shop.dispatch(one) for one in confirmed))
    await audit(shop)
    stock = await shop.stock(sku)
    assert (stock.on_hand, stock.reserved) == (0, 0)


async def test_orders_of_the_same_products_in_opposite_order_get_all_of_their_lines_or_none(shop: Shop) -> None:
    one, two = await shop.offer(12), await shop.offer(12)
    wanted = [{one: 1, two: 2}, {two: 2, one: 1}, {one: 2, two: 1}] * 6
    placed = await asyncio.gather(*(shop.order(lines) for lines in wanted))
    books = await audit(shop)
    states = Counter(state_of(books.orders[order_id]) for order_id in placed)
    assert set(states) == {"CONFIRMED", "CANCELLED"}
    left = [(await shop.stock(sku)).available for sku in (one, two)]
    assert min(left) < 2, "what is left would have been enough for another order"


async def test_a_cancel_right_after_the_order_races_with_its_confirmation(shop: Shop) -> None:
    sku = await shop.offer(100)

    async def order_and_cancel(seconds: float) -> str:
        order_id = await shop.order(sku)
        await asyncio.sleep(seconds)  # so that the cancels fall on every moment of the flow
        assert await shop.cancel(order_id) in ("CANCELLED", "CANCELLING")
        return order_id

    placed = await asyncio.gather(*(order_and_cancel(n * 0.005) for n in range(30)))
    books = await audit(shop)
    assert {state_of(books.orders[one]) for one in placed} == {"CANCELLED"}
    assert {reason_of(books.orders[one]) for one in placed} == {"CUSTOMER_REQUEST"}
    assert (await shop.stock(sku)).available == 100


@pytest.mark.parametrize("head_start", [0.0, 0.02], ids=["at once", "cancel first"])
async def test_shipping_decides_between_dispatch_and_cancel(shop: Shop, head_start: float) -> None:
    sku = await shop.offer(30)
    placed = await asyncio.gather(*(shop.order(sku) for _ in range(30)))
    await audit(shop)

    async def dispatch(order_id: str, seconds: float) -> grpc.StatusCode | None:
        await asyncio.sleep(seconds)  # so that some come before the cancel is heard, and some after
        return await refused(shop.dispatch(order_id))

    refusals = await asyncio.gather(
        *(refused(shop.cancel(one)) for one in placed),
        *(dispatch(one, head_start * n / 10) for n, one in enumerate(placed)),
    )
    books = await audit(shop)
    for order_id, cancel, dispatched in zip(placed, refusals[:30], refusals[30:], strict=True):
        assert cancel in (None, grpc.StatusCode.FAILED_PRECONDITION)
        assert dispatched in (None, grpc.StatusCode.FAILED_PRECONDITION)
        state = state_of(books.orders[order_id])
        assert state == ("SHIPPED" if dispatched is None else "CANCELLED")
        assert state == "SHIPPED" or cancel is None


async def test_two_customers_cancel_and_two_carriers_dispatch_the_same_order_at_once(shop: Shop) -> None:
    order_id = await shop.order(await shop.offer(1))
    await shop.becomes(order_id, "CONFIRMED")
    await eventually(lambda: shop.shipment_state(order_id))
    calls = [shop.cancel, shop.dispatch, shop.cancel, shop.dispatch]
    await asyncio.gather(*(refused(call(order_id)) for call in calls))
    await audit(shop)
