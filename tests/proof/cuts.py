"""A power cut in the midst of a burst of orders, and what was lost by it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from sqlalchemy import NullPool, create_engine, inspect, text

from tests.flow.shop import Shop
from tests.flow.systems import SERVICES, WholeSystem, is_alive
from tests.proof.disks import Disk
from weft.broker import Broker
from weft.embedded import NatsServer
from weft.events import stream_of
from weft.testing import EventReader, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

MEBIBYTES = 512
CUSTOMERS = 8
ENOUGH = 200
"""Orders that are accepted before the cut."""
_ENDS = {"tok_ok": "CONFIRMED", "tok_declined": "CANCELLED"}
_PUBLISHED = "SELECT event_id FROM outbox WHERE published_at IS NOT NULL"


@dataclass
class Cut:
    """What a power cut left on the disk, and what had been promised before it."""

    disk: Disk
    accepted: dict[str, str] = field(default_factory=dict)
    """How each order has to end, by the id of every order that was accepted before the cut."""
    restocked: Mapping[str, int] = field(default_factory=dict)


async def cut_in_mid_burst(folder: Path, tree: Path) -> Cut:
    """Run the code of `tree` on a disk of its own, have customers order all at once, and cut the power."""
    disk = Disk.made(folder / "before.img", MEBIBYTES)
    with disk.mounted(folder / "before") as place:
        system = WholeSystem(place, tree=tree)
        try:
            await system.start()
            async with Shop(system) as shop:
                sku = await shop.offer(100_000)
                cut = Cut(disk, restocked=system.restocked)
                customers = [asyncio.create_task(_buy(shop, sku, cut.accepted)) for _ in range(CUSTOMERS)]
                try:
                    await eventually(lambda: len(cut.accepted) >= ENOUGH, 120, "orders are accepted")
                    with _at_a_standstill(system):
                        cut.disk = await asyncio.to_thread(disk.cut, folder / "after.img")
                        cut.accepted = dict(cut.accepted)
                finally:
                    for customer in customers:
                        customer.cancel()
                    await asyncio.gather(*customers, return_exceptions=True)
        finally:
            await _kill(system)
    disk.image.unlink()
    return cut


async def _buy(shop: Shop, sku: str, accepted: dict[str, str]) -> None:
    for token in cycle(["tok_ok", "tok_ok", "tok_declined"]):
        with suppress(grpc.aio.AioRpcError):
            accepted[await shop.order(sku, token)] = _ENDS[token]


@contextmanager
def _at_a_standstill(system: WholeSystem) -> Iterator[None]:
    """Have every process of a system stand still within the `with`: nothing is written or synced any more."""
    pids = [system.supervisor, *system.pids()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        _wait_until_stopped(pid)
    yield


def _wait_until_stopped(pid: int) -> None:
    """Return once every thread of a process stands still; a sync in progress comes to its end before."""
    while not _states_of(pid) <= {"T", "Z"}:
        os.sched_yield()


def _states_of(pid: int) -> set[str]:
    """Return the states of a process's threads (Linux, proc_pid_stat(5))."""
    states = Path(f"/proc/{pid}/task").glob("*/stat")
    return {file.read_text().rpartition(")")[2].split()[0] for file in states}


async def _kill(system: WholeSystem) -> None:
    pids = system.pids() if (system.data / "run.json").exists() else set()
    system.kill_supervisor()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not any(map(is_alive, pids)), 30, "every process has ended")


@dataclass
class Losses:
    """What was promised and is not on the disk: ids."""

    orders: set[str]
    """Accepted orders that order does not know."""
    events: set[str]
    """Events that the broker had acknowledged and does not have."""


async def losses(cut: Cut, place: Path) -> Losses:
    """Compare what was promised with what is on the disk, which is mounted at `place`."""
    known = _ids(place, "order", "orders", "SELECT order_id FROM orders")
    published = {service: _ids(place, service, "outbox", _PUBLISHED) for service in SERVICES}
    lost: set[str] = set()
    async with NatsServer(place / "data" / "nats") as server, _connected(server.url) as broker:
        for service, ids in published.items():
            stream = stream_of(f"commerce.{service}")
            await broker.ensure_stream(f"commerce.{service}")
            lost |= ids - {event.id for event in await EventReader(broker.js, stream).read()}
    return Losses(set(cut.accepted) - known, lost)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Broker]:
    broker = Broker(url, "proof")
    await broker.connect()
    try:
        yield broker
    finally:
        await broker.close()


def _ids(place: Path, service: str, table: str, query: str) -> set[str]:
    """Return what a query finds in a service's database; nothing if even its table is lost."""
    engine = create_engine(f"sqlite:///{place / 'data' / service}.db", poolclass=NullPool)
    with engine.connect() as connection:
        if not inspect(connection).has_table(table):
            return set()
        found: Any = connection.execute(text(query)).scalars()
        return set(found)
