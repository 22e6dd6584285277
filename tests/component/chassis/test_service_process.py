"""A service as a process keeps what it answered: while its broker is away, and when it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import grpc

from tests.component.chassis.world import on_sqlite, restock
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import Process, World

pytestmark = on_sqlite

SECONDS = 5.0
"""Within which a service has to stop."""


async def stops_cleanly(process: Process) -> None:
    """Tell a process to stop, and see that it does so in order and soon."""
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    code, output, errors = await process.ended()
    assert (code, errors) == (0, "")
    assert "Traceback" not in output
    assert time.monotonic() - began < SECONDS


async def served(process: Process, account: str, quantity: int = 1) -> int:
    """Make a call that has an account take an amount, and return its total."""
    async with process.calling() as stub:
        return int((await stub.Restock(restock(account, quantity), timeout=5)).stock.on_hand)


async def test_commands_are_served_while_the_broker_is_away_and_their_events_published_later(world: World) -> None:
    process = world.process()
    await process.ready()
    assert await served(process, "a", 1) == 1
    await world.until_published()
    await world.nats.stop()
    assert [await served(process, "a", 2), await served(process, "b", 4)] == [3, 4]
    assert world.rows.count("outbox", "published_at IS NULL") == 4
    await stops_cleanly(process)

    process.start()
    await eventually(lambda: served(process, "a", 8), 20)
    assert world.rows.count("outbox", "published_at IS NULL") == 6
    await world.nats.start()
    await world.until_published()
    await eventually(lambda: world.feed.broker.connected)
    levels = [one for one in await world.feed.published() if one.type.endswith("InventoryUpdated")]
    told = [(one.aggregate_id, one.body.on_hand, one.body.revision) for one in levels]  # type: ignore[union-attr]
    assert told == [("a", 1, 1), ("a", 3, 2), ("b", 4, 1), ("a", 11, 3)]
    await stops_cleanly(process)


async def test_all_that_was_answered_is_kept_though_it_is_told_to_stop_under_load(world: World) -> None:
    process = world.process()
    await process.ready()
    answered = 0

    async def call_until_refused(account: str) -> grpc.StatusCode:
        nonlocal answered
        async with process.calling() as stub:
            while True:
                try:
                    await stub.Restock(restock(account), timeout=5)
                except grpc.aio.AioRpcError as error:
                    return error.code()
                answered += 1

    callers = [asyncio.create_task(call_until_refused(f"a{n}")) for n in range(4)]
    await eventually(lambda: answered > 20)
    process.signal(signal.SIGTERM)
    code, _, errors = await process.ended(SECONDS)
    assert set(await asyncio.gather(*callers)) == {grpc.StatusCode.UNAVAILABLE}
    assert (code, errors) == (0, "")
    assert world.rows("SELECT SUM(total) FROM accounts") == [(answered,)]
