"""What must hold of every order once the system is quiet, whatever happened before: told from the outside.

Orders, payments and stock as gRPC tells them, money as the provider's own ledger tells it, and what happened
as the streams hold it. The services' databases are read for nothing but open ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import nats
from nats.js.errors import NotFoundError
from sqlalchemy import NullPool, create_engine, text

from commerce.payment.v1.payment_service_pb2 import PaymentState
from tests.flow.shop import PATIENCE, state_of
from tests.flow.systems import SERVICES
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.type.money_pb2 import Money
    from nats.aio.client import Client
    from sqlalchemy import Row

    from commerce.order.v1.order_service_pb2 import Order
    from tests.flow.shop import Shop
    from tests.flow.systems import WholeSystem

_STREAMS = tuple(f"COMMERCE_{service.upper()}" for service in SERVICES)
_ENDS = """
SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL),
       (SELECT count(*) FROM intents WHERE kind <> 'housekeeping'),
       (SELECT count(*) FROM parked), (SELECT coalesce(max(seq), 0) FROM outbox)
"""
_ARRANGED = {"OrderCreated", "OrderConfirmed", "PaymentCompleted", "InventoryReserved", "ShippingPrepared"}
_SHIPPED = _ARRANGED | {"ShippingDispatched"}
_COMPLETED = _SHIPPED | {"ShippingDelivered", "OrderCompleted"}
_HAPPENED = {"CONFIRMED": _ARRANGED, "SHIPPED": _SHIPPED, "COMPLETED": _COMPLETED}
_UNDONE_BY = {"PaymentCompleted": "PaymentRefunded", "InventoryReserved": "InventoryReleased"}
_UNPAID = {"FAILED", "REFUNDED", "VOIDED"}


class Amount(NamedTuple):
    """Money in billionths of the currency's unit."""

    currency: str
    nanos: int

    @classmethod
    def of(cls, money: Money) -> Amount:
        """Return what a protobuf message says."""
        return cls(money.currency_code, money.units * 10**9 + money.nanos)


@dataclass(frozen=True, slots=True)
class Books:
    """What the system says of its orders, each by order id."""

    orders: Mapping[str, Order]
    payments: Mapping[str, str]
    charges: Mapping[str, list[Amount]]
    refunds: Mapping[str, list[Amount]]
    history: Mapping[str, Counter[str]]
    """How often each event is in the streams, by its short name."""


async def audit(shop: Shop) -> Books:
    """Wait until nothing moves any more, check every order that was ever placed and every piece of stock.

    Raises `AssertionError`, which says what is wrong and where the system's files are.
    """
    client = await nats.connect(shop.system.nats)
    try:
        await quiet(shop.system, client)
        _check_dead_letters(shop.system)
        books = await _read_books(shop, client)
    finally:
        await client.close()
    wrong = [text for order in books.orders.values() for text in _wrong_with(order, books)]
    wrong += [f"money moved for {one}, which is no order" for one in {*books.charges} - {*books.orders}]
    wrong += await _wrong_with_stock(shop, books)
    assert not wrong, "\n".join([f"not as it should be in {shop.system.data}:", *wrong])
    return books


async def quiet(system: WholeSystem, client: Client) -> None:
    """Return once nothing is under way: no intent, nothing unpublished or parked, every stream handled."""
    before: list[int] | None = None

    async def is_still() -> bool:
        # Twice the same: what moved from a place not looked at yet to one looked at already shows then.
        nonlocal before
        now = [_open_ends(system, service) for service in SERVICES]
        await asyncio.gather(*(_check_handled(client, stream) for stream in _STREAMS))
        still, before = now == before, now
        return still

    await eventually(is_still, PATIENCE, f"the system in {system.data} is quiet")


def _open_ends(system: WholeSystem, service: str) -> int:
    """Return the number of the last event; raises `AssertionError` if something is open."""
    unpublished, intents, parked, last = _read(system, service, _ENDS)[0]
    ends = {"unpublished": unpublished, "intents": intents, "parked": parked}
    assert not any(ends.values()), f"{service} has open ends: {ends}"
    return int(last)


async def _check_handled(client: Client, stream: str) -> None:
    for consumer in await client.jetstream().consumers_info(stream):
        left = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
        assert not left, f"{consumer.name} has {left} events to handle"


def _check_dead_letters(system: WholeSystem) -> None:
    found = [letter for service in SERVICES for letter in dead_letters(system, service)]
    wrong = [letter for letter in found if letter.key not in system.strangers]
    assert not wrong, wrong


class DeadLetter(NamedTuple):
    """An event that a service set aside for a person."""

    consumer: str
    subject: str
    reason: str
    error: str
    body: bytes

    @property
    def key(self) -> str:
        """The id of the aggregate that it is about."""
        return self.subject.rpartition(".")[2]


def dead_letters(system: WholeSystem, service: str) -> list[DeadLetter]:
    """Return the dead letters of a service, oldest first."""
    query = "SELECT consumer, subject, reason, error, body FROM dead_letters ORDER BY id"
    return [DeadLetter(*row) for row in _read(system, service, query)]


def _read(system: WholeSystem, service: str, query: str) -> Sequence[Row[Any]]:
    engine = create_engine(system.database_url(service), poolclass=NullPool)
    with engine.connect() as connection:
        return connection.execute(text(query)).all()


async def _read_books(shop: Shop, client: Client) -> Books:
    payments = await shop.all_payments()
    charges, refunds = await _read_ledger(shop.system.provider)
    return Books(
        orders={order.order_id: order for order in await shop.all_orders()},
        payments={one.order_id: PaymentState.Name(one.state).removeprefix("PAYMENT_STATE_") for one in payments},
        charges=charges,
        refunds=refunds,
        history=await _read_history(client),
    )


async def _read_ledger(provider: str) -> tuple[dict[str, list[Amount]], dict[str, list[Amount]]]:
    """Return the amounts that were taken and those that were given back, by reference."""
    async with aiohttp.ClientSession(provider) as session, session.get("/v1/ledger") as answer:
        ledger = await answer.json()
    taken: dict[str, list[Amount]] = defaultdict(list)
    returned: dict[str, list[Amount]] = defaultdict(list)
    for charge in ledger["charges"]:
        if charge["status"] == "succeeded":
            taken[charge["reference"]].append(_amount(charge))
    for refund in ledger["refunds"]:
        returned[refund["reference"]].append(_amount(refund))
    return taken, returned


def _amount(entry: Mapping[str, Mapping[str, str]]) -> Amount:
    return Amount(entry["amount"]["currency"], int(entry["amount"]["nanos"]))


async def _read_history(client: Client) -> dict[str, Counter[str]]:
    history: dict[str, Counter[str]] = defaultdict(Counter)
    for stream in _STREAMS:
        info = await client.jetstream().stream_info(stream, subjects_filter=">")
        for subject, count in (info.state.subjects or {}).items():
            event_type, _, aggregate_id = subject.rpartition(".")
            # A relay that was killed may have published what it did not note, which the broker finds out mostly.
            count = 1 if count == 1 else len(await _ids_of(client, stream, subject))
            history[aggregate_id][event_type.rpartition(".")[2]] += count
    return history


async def _ids_of(client: Client, stream: str, subject: str) -> set[str]:
    """Return the ids of the events with a subject: one that is there twice is one event."""
    ids: set[str] = set()
    seq = 1
    while True:
        try:
            message = await client.jetstream().get_msg(stream, seq=seq, subject=subject, next=True)
        except NotFoundError:
            return ids
        ids.add((message.headers or {})["ce-id"])
        seq = (message.seq or seq) + 1


def _wrong_with(order: Order, books: Books) -> list[str]:
    """Return what is not as it should be with an order."""
    key, state = order.order_id, state_of(order)
    taken, returned = books.charges.get(key, []), books.refunds.get(key, [])
    events = books.history.get(key, Counter[str]())
    payment = books.payments.get(key, "unknown")
    ok = {"each event happened once": max(events.values(), default=0) == 1}
    if state in _HAPPENED:
        total = Amount.of(order.total)
        ok["it is charged exactly its total, once"] = taken == ([total] if total.nanos else []) and not returned
        ok["its payment is completed"] = payment == "COMPLETED"
        ok["it went the whole way"] = {*events} - {"OrderCancelRequested"} == _HAPPENED[state]
    elif state == "CANCELLED":
        ok["nothing is kept of its money"] = taken == returned and len(taken) <= 1
        ok["its payment is undone"] = payment in _UNPAID
        ok["everything is undone"] = all((done in events) == (undo in events) for done, undo in _UNDONE_BY.items())
        ok["nothing is dispatched"] = "ShippingDispatched" not in events
    else:
        ok["it has ended"] = False
    facts = f"{state}, payment {payment}, taken {taken}, returned {returned}, events {dict(events)}"
    return [f"{key}: not so: {what} ({facts})" for what, is_so in ok.items() if not is_so]


async def _wrong_with_stock(shop: Shop, books: Books) -> list[str]:
    """Return the skus of which pieces were lost, made, or promised to nobody."""
    pieces: dict[str, Counter[str]] = defaultdict(Counter)
    for order in books.orders.values():
        for line in order.lines:
            pieces[state_of(order)][line.sku] += line.quantity
    wrong = []
    for sku, restocked in shop.system.restocked.items():
        stock = await shop.stock(sku)
        gone = pieces["SHIPPED"][sku] + pieces["COMPLETED"][sku]
        expected = (restocked - gone, pieces["CONFIRMED"][sku])
        if (stock.on_hand, stock.reserved) != expected:
            wrong.append(f"{sku}: on hand and reserved are {(stock.on_hand, stock.reserved)}, not {expected}")
    return wrong
