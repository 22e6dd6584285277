"""Orders have a time to be decided in: it passes for those that wait for a partner, not for an outage."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest_asyncio

from tests.flow.audit import audit
from tests.flow.shop import Shop, reason_of
from tests.flow.systems import WholeSystem
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

DEADLINE = 2.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty_system(mode: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WholeSystem]:
    """A system of the module's own, whose orders have little time."""
    settings = {"WEFT_ORDER_DEADLINE": str(DEADLINE), "WEFT_PROVIDER_TIMEOUT": "0.5"}
    folder = tmp_path_factory.mktemp("hasty")
    system = WholeSystem(folder, one_process=mode == "one-process", settings=settings)
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


async def test_an_outage_of_the_broker_that_is_longer_than_the_deadline_cancels_nobody(shop: Shop) -> None:
    sku = await shop.offer(3)
    with shop.system.paused("nats-server"):
        placed = await asyncio.gather(*(shop.order(sku) for _ in range(3)))
        over = time.monotonic() + DEADLINE + 0.5
        await eventually(lambda: time.monotonic() > over)
    for order_id in placed:
        await shop.becomes(order_id, "CONFIRMED")
    await audit(shop)
