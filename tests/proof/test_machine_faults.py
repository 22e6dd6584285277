"""The whole system on a machine in trouble: what was accepted ends well, and it goes on by itself afterwards.

Disks that are full or fail, a lock that somebody holds, and a broker or a database that is away for long.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.flow.shop import Shop
from tests.flow.systems import SERVICES, WholeSystem
from tests.flow.traffic import Traffic
from tests.proof.disks import needs_disks, small_disk
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(420)
LONG = 60.0
A_WHILE = 12.0
MEBIBYTES = 192
LEFT = 256 * 1024
"""Bytes that are left on a disk that is filled: some orders more, and it is full."""


@asynccontextmanager
async def open_shop(folder: Path, *, postgres: bool = False) -> AsyncIterator[Shop]:
    """Run a system in `folder` within the `with`."""
    system = WholeSystem(folder, postgres=postgres)
    try:
        await system.start()
        async with Shop(system) as shop:
            yield shop
    finally:
        system.stop()


async def test_while_the_broker_is_away_for_a_minute_orders_are_accepted_and_they_flow_afterwards(
    tmp_path: Path,
) -> None:
    async with open_shop(tmp_path) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            before = len(traffic.accepted)
            with shop.system.paused("nats-server"):
                await asyncio.sleep(LONG)
                assert len(traffic.accepted) - before > LONG
            await traffic.more()
        assert not traffic.refused
        await traffic.check()


@contextmanager
def full(place: Path) -> Iterator[None]:
    """Have the disk at `place` all but full within the `with`."""
    filler = place / "filler"
    disk = os.statvfs(place)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - LEFT)
    try:
        yield
    finally:
        filler.unlink()


@needs_disks
async def test_while_the_disk_is_full_nothing_is_accepted_that_is_lost_and_it_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", MEBIBYTES) as place:
        async with open_shop(place) as shop:
            async with Traffic(shop) as traffic:
                await traffic.more()
                with full(place):
                    await eventually(lambda: len(traffic.refused) > 20, LONG, "orders are refused")
                    await asyncio.sleep(A_WHILE)
                await traffic.more()
            assert all(one.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for one in traffic.refused)
            await traffic.check()


@needs_disks
async def test_while_the_disk_of_the_broker_is_full_orders_are_accepted_and_they_flow_once_it_is_restarted(
    tmp_path: Path,
) -> None:
    """A NATS server that finds its disk full ends its JetStream for good, and has it again after a restart."""
    (tmp_path / "data").mkdir(mode=0o700)
    with small_disk(tmp_path / "data" / "nats", MEBIBYTES) as place:
        async with open_shop(tmp_path) as shop:
            before = shop.system.pid("nats-server")
            async with Traffic(shop) as traffic:
                await traffic.more()
                with full(place):
                    for _ in range(10):
                        traffic.rush()
                        await traffic.more(10)
                    await asyncio.sleep(A_WHILE)
                shop.system.send("nats-server", signal.SIGTERM)
                await shop.system.restarted("nats-server", before)
                await traffic.more()
            assert not traffic.refused
            await traffic.check()


@contextmanager
def unable_to_write(pids: set[int]) -> Iterator[None]:
    """Have every write of these processes to a file fail within the `with`, as on a broken disk."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
async def test_while_the_disk_of_every_service_fails_nothing_is_accepted_that_is_lost(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            with unable_to_write({shop.system.pid(service) for service in SERVICES}):
                before = len(traffic.accepted)
                await eventually(lambda: len(traffic.refused) > 20, LONG, "orders are refused")
                await asyncio.sleep(A_WHILE)
            assert len(traffic.accepted) <= before + 1  # whose answer was on its way
            await traffic.more()
        assert all(one.startswith("UNAVAILABLE") for one in traffic.refused)
        await traffic.check()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the write lock of a SQLite file within the `with`."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize("service", ["order", "payment", "inventory", "shipping"])
async def test_while_somebody_holds_the_lock_of_a_database_nothing_is_lost(tmp_path: Path, service: str) -> None:
    async with open_shop(tmp_path) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            with locked(shop.system.data / f"{service}.db"):
                await asyncio.sleep(A_WHILE)
            await traffic.more()
        assert all(one.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for one in traffic.refused)
        assert service == "order" or not traffic.refused
        await traffic.check()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
async def test_while_postgres_is_gone_nothing_is_lost_and_calls_end_in_time(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with open_shop(tmp_path, postgres=True) as shop:
        system = shop.system
        async with Traffic(shop) as traffic:
            await traffic.more()
            before = system.pid("postgres")
            if number == signal.SIGKILL:
                system.send("postgres", number)
                await system.restarted("postgres", before)
            else:
                with _all_paused(_family(before)):
                    await asyncio.sleep(A_WHILE)
            await traffic.more()
        assert all(one.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for one in traffic.refused)
        await traffic.check()


def _family(pid: int) -> list[int]:
    """Return a process and its children: PostgreSQL has one for each connection."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [pid, *map(int, file.read().split())]


@contextmanager
def _all_paused(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
