"""The toy, for a sweep of the crash points that the chassis has: it parks, asks, waits and sets aside on purpose."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from commerce.inventory.v1 import inventory_service_pb2 as api
from commerce.order.v1.order_events_pb2 import OrderConfirmed
from commerce.product.v1.product_events_pb2 import ProductCreated
from tests.component.chassis.toy import task
from tests.component.chassis.world import restock
from weft.tasks import end
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from tests.component.chassis.world import Process, World

PATIENCE = 60.0
_BURST = range(10, 34)
"""The numbers of enough tasks for an atomic batch."""


class SweptToy:
    """One toy process, started again whenever it dies, and the small scenario that it goes through."""

    def __init__(self, world: World) -> None:
        self.folder: Path = world.folder / "points"
        self.folder.mkdir()
        self.instances = ["toy-1"]
        self._world = world
        self._accounts: list[str] = []
        (world.folder / "answer").touch()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have it run within the `with`."""
        self._process = self._world.process(crash_points=self.folder)
        keeping = asyncio.create_task(_keep(self._process))
        try:
            await self._process.ready(PATIENCE)
            yield
        finally:
            await end(keeping)

    async def play(self) -> None:
        """Send tasks of every kind about a new account, and wait until all of them are done."""
        account = f"a{len(self._accounts)}"
        self._accounts.append(account)
        feed = self._world.feed
        await feed.send(ProductCreated(sku=account))
        await feed.send(
            task(account, 1, "unavailable:2"),
            task(account, 2, "ask"),
            task(account, 3, "refuse"),
            task(account, 4, "later:10"),
            task(account, 5, "patient:10"),
        )
        await feed.send(*(task(account, number) for number in _BURST))
        await eventually(lambda: self._seen(account), PATIENCE, f"{account} took its tasks")
        await eventually(self._deposited, PATIENCE, "the deposit is there")
        await eventually(lambda: self._told(account) >= _EXPECTED, PATIENCE, f"{account} was answered")
        await feed.send(OrderConfirmed(order_id=account))
        await eventually(lambda: "confirmed" in self._world.rows.notes(account), PATIENCE, "it is confirmed")

    async def end(self, instances: Collection[str]) -> None:
        """Ask it to end, and wait until its next process is there."""
        if instances:
            before = self._process.pid
            self._process.signal(signal.SIGTERM)
            await eventually(lambda: self._process.pid != before, PATIENCE, "it is started again")

    async def settle(self) -> None:
        """Wait until it runs and nothing is under way."""
        await self._process.ready(PATIENCE)
        await eventually(self._is_quiet, PATIENCE, "nothing is under way")
        await self._process.ready(PATIENCE)

    async def check(self) -> None:
        """Check that every task had its effect once, on every account that there ever was."""
        rows = self._world.rows
        assert rows.count("dead_letters") == rows.count("dead_letters", "reason = 'REFUSED'") == len(self._accounts)
        for account in self._accounts:
            assert self._seen(account), (account, rows.seen(account))
            assert self._told(account) == _EXPECTED + Counter(["confirmed"]), (account, rows.notes(account))
            published = await self._world.feed.numbers_published(account)
            # One whose publication was not noted is published again, which the broker or the inboxes find out.
            assert list(dict.fromkeys(published)) == rows.seen(account), (account, published)

    def _seen(self, account: str) -> bool:
        """Tell whether an account took all of its tasks, in order."""
        return self._world.rows.seen(account) == [1, 2, 4, 5, *_BURST]

    def _told(self, account: str) -> Counter[str]:
        return Counter(self._world.rows.notes(account))

    async def _deposited(self) -> bool:
        """Make a deposit for the latest account, unless that was done: the answer may have been lost."""
        account = f"deposit-{self._accounts[-1]}"
        async with self._process.calling() as stub:
            if not self._world.rows.seen(account):
                await stub.Restock(restock(account), timeout=PATIENCE)  # type: ignore[misc]
            found = await stub.GetStock(api.GetStockRequest(sku=account), timeout=PATIENCE)  # type: ignore[misc]
        return bool(found.stock.on_hand == 1)

    def _is_quiet(self) -> bool:
        rows = self._world.rows
        return not (rows.count("parked") or rows.count("intents") or rows.count("outbox", "published_at IS NULL"))


_EXPECTED = Counter(["product", "answered yes", "fired", "fired"])


async def _keep(process: Process) -> None:
    while True:
        await eventually(lambda: not process.running, float("inf"))
        process.stop()
        process.start()
