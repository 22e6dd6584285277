"""What events that nobody can handle cost the good ones around them."""

from __future__ import annotations

import statistics
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from bench.databases import backends
from bench.inventory import order_created, run_inventory
from bench.report import Figure, Target
from bench.stage import Broken
from commerce.order.v1.order_events_pb2 import OrderCreated
from weft.letters import REFUSED, UNDECODABLE
from weft.wire import HeaderLines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.databases import Backend
    from bench.inventory import Inventory
    from bench.stage import Stage
    from weft.broker import Outgoing

ONE_IN = 100
"""Of so many events one is poison."""
_AT_LEAST = 80
_WARMING = 500
_LETTERS = text("SELECT reason, COUNT(*) AS letters FROM dead_letters GROUP BY reason")


class Mixture(NamedTuple):
    """Events in the order in which they come, and what has to become of them."""

    messages: Sequence[Outgoing]
    good: int
    """How many of them are sound orders."""
    poison: Mapping[str, int]
    """How many dead letters of each reason the others have to become."""


def mixed(first: int, events: int) -> Mixture:
    """Return so many events, evenly poisoned, by turns with one of each kind; orders are numbered from `first`."""
    kinds = cycle([(UNDECODABLE, _garbled), (REFUSED, _without_lines), (UNDECODABLE, _without_id)])
    messages: list[Outgoing] = []
    poison = {UNDECODABLE: 0, REFUSED: 0}
    for number in range(events):
        message = order_created(first + number)
        if number % ONE_IN == ONE_IN // 2:
            reason, spoil = next(kinds)
            poison[reason] += 1
            message = spoil(message)
        messages.append(message)
    return Mixture(messages, events - sum(poison.values()), poison)


def _garbled(message: Outgoing) -> Outgoing:
    """Return a message whose body is no protobuf."""
    subject, headers, _ = message
    return subject, headers, b"\xff" * 40


def _without_id(message: Outgoing) -> Outgoing:
    """Return a message that is no CloudEvent."""
    subject, headers, body = message
    return subject, HeaderLines(headers.replace(b"ce-id:", b"no-id:")), body


def _without_lines(message: Outgoing) -> Outgoing:
    """Return an order of nothing, which the handler refuses."""
    subject, headers, body = message
    event = OrderCreated.FromString(body)
    del event.lines[:]
    return subject, headers, event.SerializeToString()


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure clean and poisoned rounds by turns, on both databases."""
    figures: list[Figure] = []
    async with backends(stage) as both:
        for backend in both:
            async with run_inventory(stage, backend) as inventory:
                figures.append(await _measure(stage, backend, inventory))
    return figures


async def _measure(stage: Stage, backend: Backend, inventory: Inventory) -> Figure:
    events, rounds = stage.scale.events, stage.scale.rounds
    stage.display.step(f"{backend.name}: warming up")
    await inventory.handle(min(events, _WARMING))
    rates: dict[str, list[float]] = {"clean events/s": [], "poisoned events/s": []}
    expected = {UNDECODABLE: 0, REFUSED: 0}
    for n in range(rounds):
        stage.display.step(f"{backend.name}: {events:,} events clean and poisoned, round {n + 1} of {rounds}")
        clean = await inventory.handle(events)
        mixture = mixed(0, events)
        poisoned = await inventory.handle_all(mixture.messages, mixture.good)
        expected = {reason: count + mixture.poison[reason] for reason, count in expected.items()}
        _check_letters(inventory, expected)
        for name, one in zip(rates, (clean, poisoned), strict=True):
            rates[name].append(events / one.seconds)
    each = [poisoned / clean * 100 for clean, poisoned in zip(*rates.values(), strict=True)]
    parts = {name: statistics.median(found) for name, found in rates.items()}
    note = (
        f"{sum(expected.values())} dead letters, no good event lost; rounds: {', '.join(f'{one:.0f}' for one in each)}"
    )
    return Figure(
        f"{backend.name}, 1% poison: of clean", statistics.median(each), "%", Target(_AT_LEAST, True), parts, note
    )


def _check_letters(inventory: Inventory, expected: Mapping[str, int]) -> None:
    with inventory.database.read.connect() as connection:
        found = {row.reason: row.letters for row in connection.execute(_LETTERS)}
    if found != expected:
        raise Broken(f"the dead letters are {found}, and should be {dict(expected)}")
