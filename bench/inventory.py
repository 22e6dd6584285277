"""Inventory alone, as a process of its own like in production, beside a broker and somebody who publishes orders."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from bench import databases
from bench.services import run_service
from bench.stage import Broken, check_runs, cpu_seconds
from commerce.order.v1.order_events_pb2 import OrderCreated
from commerce.order.v1.order_service_pb2 import OrderLine
from weft.broker import Broker
from weft.domain import Money, new_id
from weft.embedded import NatsServer
from weft.events import stream_of, subject_of
from weft.testing import Issuer
from weft.wire import encode

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from bench.databases import Backend
    from bench.stage import Stage
    from weft.broker import Outgoing
    from weft.database import Database

STREAM = stream_of("commerce.order")
ORDER_CREATED = subject_of(OrderCreated.DESCRIPTOR.full_name, "*")
_PRICE = Money("EUR", 12_500_000_000).message()
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02"
_POLL = 0.02
_PATIENCE = 60.0
_AT_ONCE = 500
_HANDLED = "SELECT position FROM progress WHERE consumer = 'inventory-from-order'"
_UNPUBLISHED = "SELECT EXISTS (SELECT 1 FROM outbox WHERE published_at IS NULL)"
_RESERVED = "SELECT COUNT(*) FROM reservations WHERE state = 'RESERVED'"


class Round(NamedTuple):
    """How long some events took, and the CPU time that each process spent on them."""

    seconds: float
    cpu: dict[str, float]


class Inventory:
    """The running service, and what is around it."""

    def __init__(
        self, process: Process, log: Path, nats: NatsServer, broker: Broker, backend: Backend, database: Database
    ) -> None:
        self.nats = nats
        self.broker = broker
        self.database = database
        self._process = process
        self._log = log
        self._placed = 0
        self._pids = {"service": process.pid, "nats-server": nats.pid}
        if backend.pid is not None:
            self._pids[backend.name] = backend.pid

    async def handle(self, events: int) -> Round:
        """Have it handle `OrderCreated` events that all wait for it, up to their last publication.

        It is paused while they are published, so that nothing but the handling is in the time.
        """
        messages = [order_created(self._placed + n) for n in range(events)]
        return await self.handle_all(messages, good=events)

    async def handle_all(self, messages: Sequence[Outgoing], good: int) -> Round:
        """Have it handle these messages, as `handle` does; `good` of them are orders that get their stock.

        Raises `Broken` if another number of orders has its stock then.
        """
        self._process.send_signal(signal.SIGSTOP)
        try:
            await publish_all(self.broker, messages)
            last = await self.broker.last_seq(STREAM)
            before = self._cpu()
        finally:
            self._process.send_signal(signal.SIGCONT)
        start = time.perf_counter()
        await self.until_handled(last)
        seconds = time.perf_counter() - start
        after = self._cpu()
        self._placed += good
        self._check()
        return Round(seconds, {name: after[name] - before[name] for name in after})

    async def until_handled(self, last: int) -> None:
        """Wait until everything up to `last` in the stream is handled, and all that followed is published."""
        deadline = time.monotonic() + _PATIENCE
        with self.database.read.connect() as connection:
            while True:
                position = connection.exec_driver_sql(_HANDLED).scalar() or 0
                if position >= last and not connection.exec_driver_sql(_UNPUBLISHED).scalar():
                    return
                check_runs(self._process, "inventory", self._log)
                if time.monotonic() > deadline:
                    raise Broken(f"inventory handled {position} of {last} events in {_PATIENCE:g} s")
                await asyncio.sleep(_POLL)

    async def publish_one(self) -> str:
        """Publish one order as its owner would; return its id."""
        subject, headers, body = order_created(self._placed)
        self._placed += 1
        if not await self.broker.publish([(subject, headers, body)]):
            raise Broken("the broker did not take an event")
        return subject.rpartition(".")[2]

    def _check(self) -> None:
        with self.database.read.connect() as connection:
            reserved = connection.exec_driver_sql(_RESERVED).scalar()
        if reserved != self._placed:
            raise Broken(f"{self._placed} orders were placed, and {reserved} have their stock")

    def _cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items() if pid is not None}


@asynccontextmanager
async def run_inventory(stage: Stage, backend: Backend, batch: int | None = None) -> AsyncIterator[Inventory]:
    """Run inventory on a new database, at batch size `batch` or its default, beside a broker of its own."""
    folder = stage.new_folder(f"inventory-{backend.name}-{batch or 'default'}".lower())
    url = await backend.new_database(folder.name.replace("-", "_"))
    database = await asyncio.to_thread(databases.stocked, url)
    issuer = Issuer(folder)
    async with NatsServer(folder / "nats") as nats:
        settings = {"WEFT_DATABASE_URL": url, "WEFT_NATS_URL": nats.url, "WEFT_JWKS_URL": issuer.jwks_url}
        if batch:
            settings["WEFT_BATCH_SIZE"] = str(batch)
        broker = Broker(nats.url, "bench")
        async with run_service(folder, "inventory", settings) as service:
            await broker.connect()
            try:
                yield Inventory(service.process, service.log, nats, broker, backend, database)
            finally:
                await broker.close()
                database.close()


async def publish_all(broker: Broker, messages: Sequence[Outgoing]) -> None:
    """Publish messages of one stream, in atomic batches."""
    done = 0
    while done < len(messages):
        taken = await broker.publish(messages[done : done + _AT_ONCE])
        if not taken:
            raise Broken("the broker took none of the events")
        done += len(taken)


def order_created(number: int) -> Outgoing:
    """Return the event of an order of one line, as its owner would publish it."""
    order_id, event_id = new_id(), new_id()
    line = OrderLine(sku=databases.sku(Random(number).randrange(databases.SKUS)), quantity=1, unit_price=_PRICE)
    event = OrderCreated(order_id=order_id, user_id="bench", lines=[line], total=_PRICE, payment_token="tok_ok")
    event.ship_to.region_code = "CH"
    event.ship_to.address_lines.append("Bahnhofstrasse 1, 8001 Zürich")
    name = event.DESCRIPTOR.full_name
    headers = {
        "Nats-Msg-Id": event_id,
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": name,
        "ce-source": "/weft/bench",
        "ce-subject": order_id,
        "ce-time": "2026-01-01T00:00:00.000000Z",
        "ce-dataschema": f"proto:{name}",
        "content-type": "application/protobuf",
        "weft-correlation-id": order_id,
        "traceparent": _TRACE,
    }
    return subject_of(name, order_id), encode(headers), event.SerializeToString()
