"""What happened, as those saw it who are not asked to judge: the streams, the provider's ledger, the services."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import nats
from nats.js.errors import NotFoundError

from cli.chaos.books import Amount, Books
from cli.system import SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nats.js import JetStreamContext

    from cli.chaos.desk import Desk

_PATIENCE = 10.0


class Event(NamedTuple):
    """One message of a stream."""

    id: str
    """The event's; the same event twice has it twice."""
    type: str
    """Its short name, as in `OrderCreated`."""
    about: str
    """The id of the aggregate."""
    time: float
    """When it was recorded, in seconds since 1970; 0 if it does not say so."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The books, and the events behind them."""

    books: Books
    events: list[Event]


async def gather_evidence(
    desk: Desk, *, broker: str, provider: str, restocked: Mapping[str, int], shipments: bool
) -> Evidence:
    """Read everything; with `shipments` ask for that of each order too, which takes a call each."""
    events = await read_events(broker)
    charges, refunds = await read_ledger(provider)
    orders = await desk.orders()
    books = Books(
        orders,
        await desk.payments(),
        charges,
        refunds,
        history_of(events),
        restocked,
        await desk.stock(restocked),
        await desk.shipments(orders) if shipments else {},
    )
    return Evidence(books, events)


async def read_events(broker: str) -> list[Event]:
    """Return every event in the services' streams, stream by stream. Raises nats-py's errors."""
    client = await nats.connect(broker)
    try:
        found: list[Event] = []
        for service in SERVICES:
            found += await _read_stream(client.jetstream(), f"COMMERCE_{service.upper()}")
        return found
    finally:
        await client.close()


def history_of(events: Iterable[Event]) -> dict[str, Counter[str]]:
    """Return how often each event happened, by what it is about: a second copy in a stream is none."""
    history: dict[str, Counter[str]] = defaultdict(Counter)
    for event in {event.id: event for event in events}.values():
        history[event.about][event.type] += 1
    return history


async def read_ledger(provider: str) -> tuple[dict[str, list[Amount]], dict[str, list[Amount]]]:
    """Return the amounts that the payment provider took and gave back, by reference."""
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


async def _read_stream(jetstream: JetStreamContext, stream: str) -> list[Event]:
    try:
        if not (await jetstream.stream_info(stream)).state.messages:
            return []
    except NotFoundError:
        return []
    # Without bodies: what is asked for is in the headers.
    reading = await jetstream.subscribe(">", stream=stream, ordered_consumer=True, headers_only=True)
    events: list[Event] = []
    try:
        while True:
            message = await reading.next_msg(_PATIENCE)
            numbers = message.metadata
            position = numbers.sequence.stream if numbers.sequence else 0
            events.append(_event(message.subject, message.headers or {}, f"{stream}.{position}"))
            if not numbers.num_pending:
                return events
    finally:
        await reading.unsubscribe()


def _event(subject: str, headers: Mapping[str, str], place: str) -> Event:
    event_type, _, about = subject.rpartition(".")
    try:
        time = datetime.fromisoformat(headers.get("ce-time", "")).timestamp()
    except ValueError:
        time = 0.0
    return Event(headers.get("ce-id") or place, event_type.rpartition(".")[2], about, time)
