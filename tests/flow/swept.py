"""The whole system, for a sweep of its crash points, and the small scenario that it goes through."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from google.type.money_pb2 import Money

from cli.chaos.books import reason_of
from tests.flow.audit import audit, quiet
from tests.flow.shop import PATIENCE, Shop, refused
from tests.flow.systems import SERVICES, WholeSystem
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_OTHER_PRICE = Money(currency_code="EUR", units=6)


class SweptSystem:
    """A system of one process for each service, which dies where it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "points"
        self.folder.mkdir(parents=True)
        # Nobody's time runs out because a process was away.
        settings = {
            "WEFT_CRASH_POINTS": str(self.folder),
            "WEFT_TOKEN_MINUTES": "600",
            "WEFT_ORDER_DEADLINE": "300",
            "WEFT_RETRY_CAP": "1",
        }
        timing = {"first_delay": 0.05, "longest_delay": 0.05, "start": 600.0, "tries": 1000}
        self.system = WholeSystem(folder, settings=settings, timing=timing)
        self.instances = [f"{service}-1" for service in SERVICES]

    async def play(self) -> None:
        """Register somebody, offer products, change one, and see orders of every kind to their end."""
        async with Shop(self.system) as shop:
            plenty, nothing, _ = await asyncio.gather(_offer(shop, 100), _offer(shop, 0), _register(shop))
            await asyncio.gather(
                _change(shop, plenty),
                _complete(shop, plenty),
                _cancel(shop, plenty),
                _end(shop, plenty, "tok_declined", "PAYMENT_DECLINED"),
                _end(shop, nothing, "tok_ok", "OUT_OF_STOCK"),
            )

    async def end(self, instances: Collection[str]) -> None:
        """Ask services to end, and wait until their next processes are there."""
        pids = {name: self.system.pid(name) for name in (instance.removesuffix("-1") for instance in instances)}
        for pid in pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

        def restarted() -> bool:
            return not any(self.system.pid(name) == pid for name, pid in pids.items())

        await eventually(restarted, PATIENCE, f"{', '.join(pids)} are restarted")

    async def settle(self) -> None:
        """Wait until every process answers and nothing is under way."""
        await self.system.all_ready()
        async with Shop(self.system) as shop:
            await quiet(shop)
        await self.system.all_ready()

    async def check(self) -> None:
        """Audit every order that was ever placed."""
        async with Shop(self.system) as shop:
            await audit(shop)


async def _offer(shop: Shop, pieces: int) -> str:
    sku = f"sku-{new_id()}"

    async def created() -> bool:
        return await refused(shop.create(sku)) in (None, grpc.StatusCode.ALREADY_EXISTS)

    async def stocked() -> bool:
        # The answer to the first try may have been lost.
        if (await shop.stock(sku)).on_hand < pieces:
            await shop.restock(sku, pieces)
        return True

    await eventually(created, PATIENCE, f"{sku} is in the catalogue")
    await eventually(stocked, PATIENCE, f"{sku} is in stock")
    shop.system.restocked[sku] = pieces
    return sku


async def _register(shop: Shop) -> None:
    async def registered() -> bool:
        await shop.register()
        return True

    await eventually(registered, PATIENCE, "somebody has an account and is signed in")


async def _change(shop: Shop, sku: str) -> None:
    async def changed() -> bool:
        await shop.change(sku, _OTHER_PRICE)
        return True

    await eventually(changed, PATIENCE, f"the price of {sku} is changed")


async def _order(shop: Shop, sku: str, token: str = "tok_ok") -> str:
    return await eventually(lambda: shop.order(sku, token), PATIENCE, "an order is accepted")


async def _complete(shop: Shop, sku: str) -> None:
    order_id = await _order(shop, sku)
    await shop.becomes(order_id, "CONFIRMED")
    await eventually(lambda: shop.dispatch(order_id), PATIENCE, f"{order_id} is dispatched")
    await eventually(lambda: shop.deliver(order_id), PATIENCE, f"{order_id} is delivered")
    await shop.becomes(order_id, "COMPLETED")


async def _cancel(shop: Shop, sku: str) -> None:
    order_id = await _order(shop, sku)
    await shop.becomes(order_id, "CONFIRMED")
    await eventually(lambda: shop.cancel(order_id), PATIENCE, f"{order_id} can be cancelled")
    assert reason_of(await shop.becomes(order_id, "CANCELLED")) == "CUSTOMER_REQUEST"


async def _end(shop: Shop, sku: str, token: str, reason: str) -> None:
    order_id = await _order(shop, sku, token)
    order = await shop.becomes(order_id, "CANCELLED")
    assert reason_of(order) == reason, f"{order_id} was cancelled for {reason_of(order)}, not {reason}"
