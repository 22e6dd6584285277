"""Events that inventory handles a second, with everything on, and how far that is from what is possible at all."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from bench import databases
from bench.ceilings import database_ceiling, jetstream_ceiling
from bench.databases import OUTBOX, backends, written_by
from bench.inventory import ORDER_CREATED, STREAM, Inventory, run_inventory
from bench.report import Figure, Target, number
from weft import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.databases import Backend, Written
    from bench.inventory import Round
    from bench.stage import Stage

DEFAULT_BATCH: int = ServiceSettings.model_fields["batch_size"].default
_TARGETS = {"SQLite": 7_000, "PostgreSQL": 4_500}
_TIMES_BATCH_1 = 7
_WARMING = 500
_UNIT = "events/s"


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure on both databases, at the default batch and one by one."""
    figures: list[Figure] = []
    async with backends(stage) as both:
        for backend in both:
            figures += await _measure(stage, backend)
    return figures


async def _measure(stage: Stage, backend: Backend) -> Sequence[Figure]:
    figures: list[Figure] = []
    rates: dict[int, float] = {}
    rows: dict[int, Written] = {}
    for batch, events in ((DEFAULT_BATCH, stage.scale.events), (1, stage.scale.single_events)):
        title = f"{backend.name}, batch {batch}"
        async with run_inventory(stage, backend, None if batch == DEFAULT_BATCH else batch) as inventory:
            rounds = await _rounds(stage, inventory, title, events)
            rows[batch] = written_by(inventory.database)
            rates[batch] = statistics.median(events / one.seconds for one in rounds)
            at_least = _TARGETS[backend.name]
            target = Target(at_least, at_least=True) if batch == DEFAULT_BATCH else None
            figures += [
                Figure(title, rates[batch], _UNIT, target, note=_each(events / one.seconds for one in rounds)),
                _cpu(title, rounds, events),
            ]
            if backend.name == "SQLite":
                figures.append(await _jetstream(stage, inventory, events, batch))
        figures.append(await _ceiling(stage, backend, rows[batch], events, batch))
    ratio = rates[DEFAULT_BATCH] / rates[1]
    figures.append(
        Figure(f"{backend.name}, batch {DEFAULT_BATCH} against batch 1", ratio, "times", Target(_TIMES_BATCH_1, True))
    )
    return [*figures, _published(backend, rows[DEFAULT_BATCH])]


async def _rounds(stage: Stage, inventory: Inventory, title: str, events: int) -> list[Round]:
    stage.display.step(f"{title}: warming up")
    await inventory.handle(min(events, _WARMING))
    rounds = []
    for n in range(stage.scale.rounds):
        stage.display.step(f"{title}: {events:,} events, round {n + 1} of {stage.scale.rounds}")
        rounds.append(await inventory.handle(events))
    return rounds


async def _ceiling(stage: Stage, backend: Backend, written: Written, events: int, batch: int) -> Figure:
    driver = {"SQLite": "sqlite3", "PostgreSQL": "psycopg"}[backend.name]
    stage.display.step(f"{driver} executemany, {batch} a commit")
    url = await backend.new_database(f"ceiling_{backend.name.lower()}_{batch}")
    await asyncio.to_thread(databases.stocked, url)
    rate = await asyncio.to_thread(database_ceiling, url, written, events, batch)
    note = "the same inbox, stock, reservation and outbox rows, nothing else"
    return Figure(f"ceiling: {driver} executemany, {batch} a commit", rate, _UNIT, note=note)


async def _jetstream(stage: Stage, inventory: Inventory, events: int, batch: int) -> Figure:
    stage.display.step(f"JetStream fetch and ack, {batch} at a time")
    rate = await jetstream_ceiling(inventory.nats.url, STREAM, ORDER_CREATED, events, batch)
    note = "the same messages, plain nats-py, nothing else"
    return Figure(f"ceiling: JetStream fetch({batch}) and ack", rate, _UNIT, note=note)


def _cpu(title: str, rounds: Sequence[Round], events: int) -> Figure:
    each = {name: sum(one.cpu[name] for one in rounds) / events / len(rounds) * 1e6 for name in rounds[0].cpu}
    return Figure(f"{title}: CPU of the service", each.pop("service"), "µs/event", parts=each)


def _published(backend: Backend, written: Written) -> Figure:
    """Say what an event costs downstream."""
    kind = OUTBOX.index("type")
    kinds = Counter(row[kind].rpartition(".")[2] for row in written.outbox)
    parts = {name: count / len(written.inbox) for name, count in sorted(kinds.items())}
    return Figure(f"{backend.name}: published per OrderCreated", written.per_order, "events", parts=parts)


def _each(rates: Iterable[float]) -> str:
    return "rounds: " + ", ".join(number(rate) for rate in rates)
