"""Customers who go on ordering, whatever happens to the system meanwhile."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING, Self

import grpc

from tests.flow.audit import audit
from tests.flow.shop import PATIENCE, reason_of, state_of
from weft.testing import eventually

if TYPE_CHECKING:
    from commerce.order.v1.order_service_pb2 import Order
    from tests.flow.shop import Shop

RATE = 6.0
"""Orders a second."""
_KINDS = ("tok_ok", "tok_declined", "tok_ok", "out of stock", "tok_ok", "cancelled")
_OUTCOMES = {
    "tok_ok": "CONFIRMED",
    "tok_declined": "CANCELLED (PAYMENT_DECLINED)",
    "out of stock": "CANCELLED (OUT_OF_STOCK)",
    "cancelled": "CANCELLED (CUSTOMER_REQUEST)",
}
_ANY_PIECES = 100_000


class Traffic:
    """Orders of every kind at an even rate, and some at once, within an `async with`."""

    def __init__(self, shop: Shop) -> None:
        self.accepted: dict[str, str] = {}
        """How each order has to end, by the id of every order that was answered with OK."""
        self.refused: list[str] = []
        """What was answered instead; such an order may have been taken nevertheless."""
        self._shop = shop
        self._kinds = cycle(_KINDS)
        self._customers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._plenty = await self._shop.offer(_ANY_PIECES)
        self._nothing = await self._shop.offer(0)
        self._coming = asyncio.create_task(self._come())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._coming.cancel()
        await asyncio.gather(self._coming, *self._customers, return_exceptions=True)
        for customer in self._customers:
            customer.result()

    def rush(self, orders: int = 12) -> None:
        """Have so many customers come at once."""
        self._customers |= {asyncio.create_task(self._buy(next(self._kinds))) for _ in range(orders)}

    async def more(self, orders: int = 3) -> None:
        """Return once so many more orders were accepted."""
        enough = len(self.accepted) + orders
        await eventually(lambda: len(self.accepted) >= enough, PATIENCE, "orders are accepted")

    async def check(self) -> None:
        """Audit the system, and check that every accepted order is there and ended as it had to."""
        books = await audit(self._shop)
        lost = [one for one in self.accepted if one not in books.orders]
        assert not lost, f"accepted and lost: {lost}"
        ends = {one: _outcome(books.orders[one]) for one in self.accepted}
        wrong = {one: (ends[one], end) for one, end in self.accepted.items() if ends[one] != end}
        assert not wrong, f"ended, and should have ended: {wrong}"

    async def _come(self) -> None:
        while True:
            self.rush(1)
            await asyncio.sleep(1 / RATE)

    async def _buy(self, kind: str) -> None:
        sku = self._nothing if kind == "out of stock" else self._plenty
        try:
            order_id = await self._shop.order(sku, "tok_declined" if kind == "tok_declined" else "tok_ok")
        except grpc.aio.AioRpcError as error:
            self.refused.append(f"{error.code().name}: {error.details()}")
            return
        self.accepted[order_id] = _OUTCOMES[kind]
        if kind == "cancelled":
            await eventually(lambda: self._shop.cancel(order_id), PATIENCE, f"{order_id} can be cancelled")


def _outcome(order: Order) -> str:
    state = state_of(order)
    return f"{state} ({reason_of(order)})" if state == "CANCELLED" else state
