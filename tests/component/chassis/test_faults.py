"""What the machine does to a service: disks that fail, locks that stay, a database that is gone, clocks that jump.

Nothing is told as done that is not saved, and the service goes on by itself when the fault is over.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from sqlalchemy.exc import IntegrityError

from commerce.inventory.v1 import inventory_service_pb2 as api
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1.order_events_pb2 import OrderConfirmed
from tests.component.chassis.toy import Mark, Toy, deposit, marks, task
from tests.component.chassis.world import on_postgres, on_sqlite, restock
from tests.component.support import calling, refusal, retry_seconds
from weft import Clock
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.component.chassis.world import World
    from weft.embedded import Postgres

HOUR = timedelta(hours=1)
LONGER_THAN_A_LOCK = 30.0


@on_sqlite
async def test_no_event_is_told_of_what_could_not_be_saved(world: World) -> None:
    def spoil(work: Any) -> None:
        deposit(work, "a", 1)
        work.add(marks, Mark("m2", "taken"))

    async with world.running() as service:
        await service.writer.run(lambda work: work.add(marks, Mark("m1", "taken")))
        with pytest.raises(IntegrityError):
            await service.writer.run(spoil)
    assert (world.rows.count("accounts"), world.rows.count("outbox")) == (0, 0)


@contextmanager
def unable_to_write(pid: int) -> Iterator[None]:
    """Have every write of a process to a file fail within the `with`, as on a broken disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
@on_sqlite
async def test_while_the_disk_fails_nothing_is_accepted_and_after_it_nothing_is_missing(world: World) -> None:
    process = world.process()
    await process.ready()
    async with process.calling() as toy:
        await toy.Restock(restock("a"))
        with unable_to_write(process.pid):
            for _ in range(3):
                refused = await refusal(toy.Restock(restock("a"), timeout=5))
                assert retry_seconds(refused) > 0
            await world.feed.send(*(task("b", n) for n in range(20)))
            assert (await toy.GetStock(api.GetStockRequest(sku="a"))).stock.on_hand == 1
        await eventually(lambda: toy.Restock(restock("a"), timeout=5), what="the service goes on by itself")
    await world.until_seen("b", range(20), timeout=20)
    assert world.rows.seen("a") == [0, 0]
    await world.until_published()
    assert await world.feed.numbers_published("b") == list(range(20))


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Hold the write lock of a SQLite file within the `with`, as a backup or a curious person may."""
    with closing(sqlite3.connect(world.database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@on_sqlite
async def test_while_somebody_holds_the_lock_calls_end_in_time_and_reads_are_answered(world: World) -> None:
    async with world.running() as service, calling(service) as channel:
        toy = InventoryServiceStub(channel)
        await toy.Restock(restock("a"))
        with locked(world):
            refused = await refusal(toy.Restock(restock("a"), timeout=LONGER_THAN_A_LOCK))
            assert retry_seconds(refused) > 0
            began = time.monotonic()
            # Its outcome is not known: it may be saved once the lock is free.
            impatient = await refusal(toy.Restock(restock("c"), timeout=0.5))
            assert impatient.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 2
            assert (await toy.GetStock(api.GetStockRequest(sku="a"))).stock.on_hand == 1
            await world.feed.send(task("b", 1), task("b", 2))
        await toy.Restock(restock("a"), timeout=LONGER_THAN_A_LOCK)
        await world.until_seen("b", [1, 2])
        await world.until_published()
    assert world.rows.seen("a") == [0, 0]
    assert len(world.rows.seen("c")) <= 1


@on_postgres
async def test_while_the_database_is_gone_calls_are_told_to_come_back(world: World, postgres_server: Postgres) -> None:
    async with world.running() as service, calling(service) as channel:
        toy = InventoryServiceStub(channel)
        await toy.Restock(restock("a"))
        await postgres_server.stop()
        began = time.monotonic()
        for call in (toy.Restock(restock("a"), timeout=5), toy.GetStock(api.GetStockRequest(sku="a"), timeout=5)):
            assert retry_seconds(await refusal(call)) > 0
        assert time.monotonic() - began < 5
        await postgres_server.start()
        await eventually(lambda: toy.Restock(restock("a"), timeout=5), 20, "the service goes on by itself")
    assert world.rows.seen("a") == [0, 0]


class JumpyClock(Clock):
    """The time of day, wrong by so much as it jumped."""

    def __init__(self) -> None:
        self.wrong_by = timedelta()

    def now(self) -> datetime:
        """See `Clock`."""
        return super().now() + self.wrong_by


ACCOUNTS = [f"a{n}" for n in range(5)]
KINDS = ["", "fail:2", "ask", "later:20", "patient:20"]
"""What the tasks of each account do besides."""


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])
@on_sqlite
async def test_a_clock_that_jumps_loses_and_doubles_nothing(world: World, jump: timedelta) -> None:
    """Retries and calls do not wait for a time that a wrong clock set; timers may come as much too early or late."""
    toy, clock = Toy(), JumpyClock()
    async with world.running(toy, clock):
        await _tasks(world, 0)
        await _timers_fired(world, range(1))
        clock.wrong_by += jump
        await _tasks(world, 1)
        await _timers_fired(world, range(2))
        clock.wrong_by -= jump
        await _tasks(world, 2)
        for account in ACCOUNTS:
            await world.until_seen(account, range(3))
        await eventually(lambda: world.rows.count("intents", "kind <> 'housekeeping'") == 0, what="all promises kept")
        await world.until_published()
    for account in ACCOUNTS:
        assert await world.feed.numbers_published(account) == [0, 1, 2]
    assert {key for key, _ in toy.asked} == {"ask-a2"}
    notes = {account: world.rows.notes(account) for account in ACCOUNTS[2:]}
    assert set(notes["a2"]) == {"answered yes"}
    assert set(notes["a3"]) == set(notes["a4"]) == {"fired"}
    assert all(1 <= len(found) <= 3 for found in notes.values())
    assert (world.rows.count("dead_letters"), world.rows.count("parked")) == (0, 0)


async def _tasks(world: World, number: int) -> None:
    await world.feed.send(*(task(account, number, kind) for account, kind in zip(ACCOUNTS, KINDS, strict=True)))


async def _timers_fired(world: World, numbers: range) -> None:
    there = "kind IN ('alarm', 'patient')"
    for account in ("a3", "a4"):
        await world.until_seen(account, numbers)
    await eventually(lambda: world.rows.count("intents", there) == 0, what="the timers have fired")


@on_sqlite
async def test_a_timer_of_an_hour_ago_that_was_withdrawn_does_not_fire_when_the_clock_jumps(world: World) -> None:
    toy, clock = Toy(), JumpyClock()
    async with world.running(toy, clock):
        await world.feed.send(
            task("a", 1, f"later:{int(HOUR.total_seconds() * 1000) - 1000}"), OrderConfirmed(order_id="a")
        )
        await eventually(lambda: world.rows.notes("a") == ["confirmed"])
        clock.wrong_by = HOUR
        await world.feed.send(task("b", 1, "later:10"))
        await eventually(lambda: toy.fired == ["b"])
    assert world.rows.notes("a") == ["confirmed"]
