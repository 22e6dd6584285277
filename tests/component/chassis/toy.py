"""A small service that does what its events tell it: it stands in for any service in the tests of the chassis.

It listens to the orders' events and to products', owns the inventory's, and keeps accounts (a row each, with a
state event), journals (event-sourced) and marks (whose labels are unique). An `OrderCreated` is a task for the
account `order_id`: `user_id` is the task's number, `payment_token` what its handling does besides, as in
`fail:2`. `python -m tests.component.chassis.toy` runs it as a process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import BigInteger, MetaData
from sqlmodel import Field, SQLModel

from commerce.inventory.v1 import inventory_service_pb2 as api
from commerce.inventory.v1.inventory_events_pb2 import (
    InventoryReleased,
    InventoryReserved,
    InventoryUpdated,
    ReservedLine,
)
from commerce.inventory.v1.inventory_service_pb2_grpc import (
    InventoryServiceServicer,
    add_InventoryServiceServicer_to_server,
)
from commerce.order.v1.order_events_pb2 import OrderConfirmed, OrderCreated
from commerce.product.v1.product_events_pb2 import ProductCreated
from weft import EventStore, Intent, Service, ServiceSettings, Store, Subscription, Timer, loads, run
from weft.domain import Aggregate, NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft import Clock, UnitOfWork


class Tables(SQLModel):
    """The tables of the toy."""

    metadata = MetaData()


class AccountRow(Tables, table=True):
    """An account; `seen` is a JSON array of the numbers of its tasks."""

    __tablename__ = "accounts"
    id: str = Field(primary_key=True)
    total: int = Field(sa_type=BigInteger)
    seen: str
    version: int = Field(sa_type=BigInteger)


class JournalRow(Tables, table=True):
    """One event of a journal."""

    __tablename__ = "journals"
    id: str = Field(primary_key=True)
    version: int = Field(sa_type=BigInteger, primary_key=True)
    type: str
    body: bytes
    time: int = Field(sa_type=BigInteger)


class MarkRow(Tables, table=True):
    """A mark."""

    __tablename__ = "marks"
    id: str = Field(primary_key=True)
    label: str = Field(unique=True)
    version: int = Field(sa_type=BigInteger)


class Account(Aggregate):
    """Adds up what its tasks bring, and remembers their numbers in the order in which they came."""

    def __init__(self, id: str, total: int = 0, seen: Sequence[int] = ()) -> None:
        super().__init__()
        self.id = id
        self.total = total
        self.seen = list(seen)

    def take(self, number: int, amount: int = 1) -> None:
        """Take a task's amount."""
        self.seen.append(number)
        self.total += amount
        lines = [ReservedLine(sku=str(number), quantity=amount)]
        self.record(InventoryReserved(order_id=self.id, lines=lines))


class Journal(Aggregate):
    """Is what it recorded."""

    def __init__(self, id: str, notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.id = id
        self.notes = list(notes)

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)
        self.record(InventoryReleased(order_id=self.id, lines=[ReservedLine(sku=text)]))


class Mark(Aggregate):
    """Has a label that no other mark may have."""

    def __init__(self, id: str, label: str) -> None:
        super().__init__()
        self.id = id
        self.label = label


def _state(account: Account, revision: int) -> InventoryUpdated:
    # A negative total stands for a state that cannot be told.
    sku = account.id if account.total >= 0 else "x" * 600_000
    return InventoryUpdated(sku=sku, on_hand=account.total, revision=revision)


def _replay(events: Sequence[Any]) -> Journal:
    return Journal(events[0].order_id if events else "", [event.lines[0].sku for event in events])


accounts = Store(
    AccountRow,
    key="id",
    load=lambda row: Account(row.id, row.total, orjson.loads(row.seen)),
    dump=lambda one: {"id": one.id, "total": one.total, "seen": orjson.dumps(one.seen).decode()},
    state=_state,
)
journals = EventStore(JournalRow, key="id", replay=_replay, types=[InventoryReleased], publish=[InventoryReleased])
marks = Store(
    MarkRow,
    key="id",
    load=lambda row: Mark(row.id, row.label),
    dump=lambda one: {"id": one.id, "label": one.label},
)


class Settings(ServiceSettings):
    """Quick to try again, and a folder in which a test and its service meet."""

    retry_base: float = 0.02
    retry_cap: float = 0.2
    lease_seconds: float = 1.0
    folder: Path | None = None


def task(account: str, number: int, then: str = "") -> OrderCreated:
    """Return a task for an account; `then` is what its handling does besides (see `Toy.do`)."""
    return OrderCreated(order_id=account, user_id=str(number), payment_token=then)


def account_of(work: UnitOfWork, id: str) -> Account:
    """Return an account, a new one if need be."""
    account = work.get(accounts, id)
    if account is None:
        account = Account(id)
        work.add(accounts, account)
    return account


def deposit(work: UnitOfWork, id: str, number: int, amount: int = 1) -> Account:
    """Have an account take an amount."""
    account = account_of(work, id)
    account.take(number, amount)
    return account


def write(work: UnitOfWork, id: str, *notes: str) -> Journal:
    """Add notes to a journal."""
    journal = work.get(journals, id)
    if journal is None:
        journal = Journal(id)
        work.add(journals, journal)
    for note in notes:
        journal.note(note)
    return journal


class Toy:
    """What a test tells the service to do, and what the service tells the test."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.tries: Counter[str] = Counter()
        """How often each task was begun, by `account/number`."""
        self.down = False
        """Whether everything that tasks need is unavailable."""
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        """The calls of intents: idempotency key and payload."""
        self.now_asking = 0
        self.most_asking = 0
        self.answer: Callable[[str], Any] = lambda key: "yes"
        """What a call answers; may return an awaitable, or raise."""
        self.fired: list[str] = []
        """The keys of timers that were fired."""
        self.settling: Callable[[str], None] = lambda key: None
        """Called when an outcome is settled; may raise."""

    def take(self, work: UnitOfWork, event: OrderCreated) -> None:
        """Handle a task."""
        number = int(event.user_id)
        name = f"{event.order_id}/{number}"
        self.tries[name] += 1
        if self.down:
            raise Unavailable("what it needs is down")
        deposit(work, event.order_id, number)
        action, _, detail = event.payment_token.partition(":")
        if action:
            self.do(work, event, action, detail, self.tries[name])

    def do(self, work: UnitOfWork, event: OrderCreated, action: str, detail: str, tries: int) -> None:
        """Do what a task says, after its account has taken it."""
        key = event.order_id
        match action:
            case "fail" if not detail or tries <= int(detail):
                raise RuntimeError("told to fail")
            case "unavailable" if not detail or tries <= int(detail):
                raise Unavailable("told to be unavailable")
            case "refuse":
                raise Refused("TOLD_TO", "told to refuse")
            case "missing":
                raise NotFound("thing", detail)
            case "quit":
                sys.exit("told to end")
            case "exit" if not detail or self._lives(detail):
                os._exit(9)
            case "mark":
                work.add(marks, Mark(f"{key}-{event.user_id}", detail))
            case "overflow":
                work.add(accounts, Account(f"{key}-{event.user_id}", 2**70))
            case "untold":
                work.add(accounts, Account(f"{key}-{event.user_id}", -1))
            case "large":
                write(work, key, "x" * 600_000)
            case "wait":
                self._wait(detail)
            case "ask":
                work.intend("ask", key, {"detail": detail})
            case "later":
                work.intend("alarm", key, {}, after=timedelta(milliseconds=int(detail)))
            case "published":
                delay = timedelta(milliseconds=int(detail))
                work.intend("alarm", key, {}, after=delay, once_published=True)
            case "patient":
                work.intend("patient", key, {}, after=timedelta(milliseconds=int(detail)))

    def _lives(self, detail: str) -> bool:
        """Tell whether this is one of the first `detail` lives of the process to get here."""
        assert self.folder is not None
        deaths = self.folder / "deaths"
        count = len(deaths.read_text()) if deaths.exists() else 0
        deaths.write_text("x" * (count + 1))
        return count < int(detail)

    def _wait(self, name: str) -> None:
        """Say that it got here, and wait until the test lets it go on."""
        assert self.folder is not None
        (self.folder / f"{name}.reached").touch()
        while not (self.folder / f"{name}.go").exists():
            time.sleep(0.005)

    @staticmethod
    def confirm(work: UnitOfWork, event: OrderConfirmed) -> None:
        """Note that an order was confirmed, and give up its alarms."""
        write(work, event.order_id, "confirmed")
        for kind in ("alarm", "patient"):
            work.withdraw(kind, event.order_id)

    @staticmethod
    def learn(work: UnitOfWork, event: ProductCreated) -> None:
        """Note that there is a product."""
        write(work, event.sku, "product")

    async def ask(self, key: str, payload: Mapping[str, Any]) -> Any:
        """Call the outside."""
        self.asked.append((key, payload))
        self.now_asking += 1
        self.most_asking = max(self.most_asking, self.now_asking)
        try:
            if self.folder is not None:
                await asyncio.to_thread(self._ask_outside, key)
            answer = self.answer(key)
            return await answer if asyncio.iscoroutine(answer) else answer
        finally:
            self.now_asking -= 1

    def _ask_outside(self, key: str) -> None:
        assert self.folder is not None
        with (self.folder / "asked").open("a") as file:
            file.write(f"{key}\n")
        while not (self.folder / "answer").exists():
            time.sleep(0.005)

    def settle(self, work: UnitOfWork, key: str, payload: Mapping[str, Any], outcome: Any) -> None:
        """Record an answer."""
        self.settling(key)
        write(work, key, f"answered {outcome}")

    def fire(self, work: UnitOfWork, key: str, payload: Mapping[str, Any]) -> None:
        """Record that a timer fired."""
        self.fired.append(key)
        write(work, key, "fired")


class ToyApi(InventoryServiceServicer):
    """Restock is a deposit, GetStock shows an account."""

    def __init__(self, service: Service, folder: Path | None) -> None:
        self._service = service
        self._folder = folder

    async def Restock(self, request: api.RestockRequest, context: Any) -> api.RestockResponse:
        if self._folder is not None and request.sku.startswith("slow"):
            (self._folder / "called").touch()
            while not (self._folder / "finish").exists():
                await asyncio.sleep(0.005)
        account = await self._service.writer.run(deposit, request.sku, 0, request.quantity)
        return api.RestockResponse(stock=api.Stock(sku=account.id, on_hand=account.total))

    async def GetStock(self, request: api.GetStockRequest, context: Any) -> api.GetStockResponse:
        account = await self._service.reader.run(accounts.find, request.sku)
        if account is None:
            raise NotFound("account", request.sku)
        stock = api.Stock(sku=account.id, on_hand=account.total, revision=account.version)
        return api.GetStockResponse(stock=stock)


def build(settings: Settings, toy: Toy | None = None, clock: Clock | None = None) -> Service:
    """Return the toy, ready to start."""
    toy = toy or Toy(settings.folder)
    service = Service(
        "toy", "commerce.inventory", settings, migrations=Path(__file__).parent / "migrations", clock=clock
    )
    service.serves(
        add_InventoryServiceServicer_to_server,
        ToyApi(service, settings.folder),
        "commerce.inventory.v1.InventoryService",
    )
    service.subscribes(
        Subscription(OrderCreated, loads(lambda event: [(accounts, event.order_id)])(_function(toy.take))),
        Subscription(OrderConfirmed, toy.confirm),
        Subscription(ProductCreated, toy.learn),
    )
    service.acts_on(
        Intent("ask", toy.ask, toy.settle, loads=lambda key: [(journals, key)]),
        Timer("alarm", toy.fire),
        Timer("patient", toy.fire, after_streams=True),
    )
    return service


def _function(method: Callable[[UnitOfWork, Any], None]) -> Callable[[UnitOfWork, Any], None]:
    """Return a function for a bound method, which cannot be marked."""
    return lambda work, event: method(work, event)


if __name__ == "__main__":
    run(lambda: [build(Settings())])
