"""Orders have a time to be decided in: it begins with their publication, and what came in by then counts."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.flow.audit import audit
from tests.flow.shop import Shop, reason_of
from tests.flow.systems import WAYS, WholeSystem
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE = 2.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty_system(mode: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WholeSystem]:
    """A system of the module's own, whose orders have little time."""
    settings = {"WEFT_ORDER_DEADLINE": str(DEADLINE), "WEFT_PROVIDER_TIMEOUT": "0.5"}
    folder = tmp_path_factory.mktemp("hasty")
    system = WholeSystem(folder, settings=settings, **WAYS[mode])
    try:
        await system.start()
        yield system
    finally:
        system.stop()


@pytest_asyncio.fixture
async def shop(hasty_system: WholeSystem) -> AsyncIterator[Shop]:
    """The customers of the hasty system."""
    async with Shop(hasty_system) as shop:
        yield shop


async def deadline_over() -> None:
    """Return when every order that was published up to now is past its deadline."""
    over = time.monotonic() + DEADLINE + 0.2
    await eventually(lambda: time.monotonic() > over, 2 * DEADLINE)


async def test_an_order_that_nobody_charges_in_time_is_cancelled_and_a_late_charge_is_refunded(shop: Shop) -> None:
    sku = await shop.offer(3)
    with shop.system.paused("sandbox"):
        placed = await asyncio.gather(*(shop.order(sku) for _ in range(3)))
        for order_id in placed:
            assert reason_of(await shop.becomes(order_id, "CANCELLED")) == "DEADLINE_EXCEEDED"
    books = await audit(shop)
    for order_id in placed:
        assert books.refunds[order_id] == books.charges[order_id] == [("EUR", 5_000_000_000)]
    assert (await shop.stock(sku)).available == 3


async def test_orders_that_are_placed_during_an_outage_of_the_broker_have_their_whole_time_after_it(shop: Shop) -> None:
    sku = await shop.offer(3)
    with shop.system.paused("nats-server"):
        placed = await asyncio.gather(*(shop.order(sku) for _ in range(3)))
        await deadline_over()
    for order_id in placed:
        await shop.becomes(order_id, "CONFIRMED")
    await audit(shop)


async def test_what_its_partners_arranged_while_order_was_away_past_the_deadline_counts(shop: Shop) -> None:
    if shop.system.one_process:
        pytest.skip("its partners are away with it")
    order_id = await shop.order(await shop.offer(1), "tok_slow")
    await eventually(lambda: shop.payment_state(order_id), what="payment hears of the order")
    with shop.system.paused("order"):
        await eventually(lambda: is_prepared(shop, order_id), what="the shipment is prepared")
        await deadline_over()
        # A new process finds the deadline passed before it has read what the others did.
        shop.system.send("order", signal.SIGKILL)
    await shop.becomes(order_id, "CONFIRMED")
    await audit(shop)


async def is_prepared(shop: Shop, order_id: str) -> bool:
    return await shop.shipment_state(order_id) == "PREPARED"
