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
import time
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.flow.systems import SERVICES, WholeSystem
from tests.flow.traffic import Traffic
from tests.proof.disks import needs_disks, small_disk
from tests.proof.witness import Witness, position, published, unpublished
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
async def open_shop(folder: Path, *, postgres: bool = False) -> AsyncIterator[Witness]:
    """Run a system in `folder` within the `with`."""
    system = WholeSystem(folder, postgres=postgres)
    try:
        await system.start()
        async with Witness(system) as shop:
            yield shop
    finally:
        system.stop()


async def test_while_the_broker_is_away_for_a_minute_orders_are_accepted_and_they_flow_afterwards(
    tmp_path: Path,
) -> None:
    async with open_shop(tmp_path) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            with shop.system.paused("nats-server"):
                await nothing_is_published(shop.system, traffic, LONG)
            await traffic.more()
        assert not traffic.refused
        shop.check_calls()
        await traffic.check()


async def nothing_is_published(system: WholeSystem, traffic: Traffic, seconds: float) -> None:
    """See for so long that orders are accepted, and all of their events wait in the outbox."""
    await traffic.more()  # what was acknowledged before is marked meanwhile
    noted, waiting, accepted = published(system, "order"), unpublished(system, "order"), len(traffic.accepted)
    await asyncio.sleep(seconds)
    await traffic.more()
    more = len(traffic.accepted) - accepted
    assert published(system, "order") == noted
    assert unpublished(system, "order") - waiting >= more


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
            shop.check_calls()
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
                    await nothing_is_published(shop.system, traffic, A_WHILE)
                shop.system.send("nats-server", signal.SIGTERM)
                await shop.system.restarted("nats-server", before)
                await traffic.more()
            assert not traffic.refused
            shop.check_calls()
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
                began = time.monotonic()
                await eventually(lambda: len(shop.refused(began)) > 20, LONG, "orders are refused")
                await asyncio.sleep(A_WHILE)
                ended = time.monotonic()
            assert all(call.error is not None for call in shop.within(began, ended))
            await traffic.more()
        assert all(one.startswith("UNAVAILABLE") for one in traffic.refused)
        shop.check_calls()
        await traffic.check()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the write lock of a SQLite file within the `with`."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_while_somebody_holds_the_lock_of_the_orders_calls_are_refused_in_time_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    async with open_shop(tmp_path) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            with locked(shop.system.data / "order.db"):
                began = time.monotonic()
                await eventually(lambda: len(shop.refused(began)) > 5, LONG, "orders are refused")
                await asyncio.sleep(A_WHILE)
                ended = time.monotonic()
            await traffic.more()
        assert all(call.error is not None for call in shop.within(began, ended))
        assert any(one.startswith("UNAVAILABLE") for one in traffic.refused)
        shop.check_calls()
        await traffic.check()


@pytest.mark.parametrize("service", ["payment", "inventory", "shipping"])
async def test_while_somebody_holds_the_lock_of_a_partner_its_events_wait_and_nothing_is_lost(
    tmp_path: Path, service: str
) -> None:
    async with open_shop(tmp_path) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            with locked(shop.system.data / f"{service}.db"):
                before, accepted = position(shop.system, service), len(traffic.accepted)
                await asyncio.sleep(A_WHILE)
                await traffic.more()
                assert position(shop.system, service) == before
            behind = len(traffic.accepted) - accepted
            await eventually(lambda: position(shop.system, service) - before >= behind, LONG, "it catches up")
        assert not traffic.refused
        shop.check_calls()
        await traffic.check()


async def test_while_postgres_is_killed_calls_are_refused_in_time_and_nothing_is_lost(tmp_path: Path) -> None:
    async with open_shop(tmp_path, postgres=True) as shop:
        system = shop.system
        async with Traffic(shop) as traffic:
            await traffic.more()
            before, began = system.pid("postgres"), time.monotonic()
            with all_paused([system.supervisor]):  # which would start it again at once
                system.send("postgres", signal.SIGKILL)
                await eventually(lambda: len(shop.refused(began)) > 20, LONG, "orders are refused")
            await system.restarted("postgres", before)
            await traffic.more()
        assert any(one.startswith("UNAVAILABLE") for one in traffic.refused)
        shop.check_calls()
        await traffic.check()


async def test_while_postgres_is_silent_calls_end_in_time_and_nothing_is_lost(tmp_path: Path) -> None:
    async with open_shop(tmp_path, postgres=True) as shop:
        async with Traffic(shop) as traffic:
            await traffic.more()
            with silent(shop.system.pid("postgres")):
                began = time.monotonic()
                await eventually(lambda: len(shop.refused(began)) > 5, LONG, "orders are refused")
                ended = time.monotonic()
            await traffic.more()
        assert all(call.error is not None for call in shop.within(began, ended))
        shop.check_calls()
        await traffic.check()


@contextmanager
def silent(pid: int) -> Iterator[None]:
    """Have PostgreSQL stand still within the `with`: the process, and its child for each connection."""
    with all_paused([pid]):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(child) for child in file.read().split()]
        with all_paused(children):
            yield


@contextmanager
def all_paused(pids: list[int]) -> Iterator[None]:
    """Have processes stand still within the `with`."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
