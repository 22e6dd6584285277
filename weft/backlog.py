"""What a service has not done yet: counted for operators who ask, and for its metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import Gauge
from sqlalchemy import Table, func, select

from weft import logs, tables
from weft.clock import micros
from weft.letters import describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from prometheus_client import CollectorRegistry
    from sqlalchemy import ColumnElement, Connection

    from weft.clock import Clock
    from weft.writer import Reader

_log = logs.logger("weft.backlog")
_REFRESH = 5.0
_OLDEST = "For how many seconds the oldest has been there; 0 without one."
_GAUGES = (
    ("unpublished", "weft_outbox_unpublished", "weft_outbox_oldest_seconds", "Events that the broker does not have"),
    ("intents", "weft_open_intents", "weft_open_intent_oldest_seconds", "Calls to the outside and timers not settled"),
    ("parked", "weft_parked_events", "weft_parked_event_oldest_seconds", "Events that will be tried again"),
    ("dead", "weft_dead_letters", "weft_dead_letter_oldest_seconds", "Events that wait for a person"),
)


@dataclass(frozen=True, slots=True)
class Pending:
    """How many of a kind there are, and since when the oldest has been there (microseconds)."""

    count: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not done yet in one service."""

    unpublished: Pending
    intents: Pending
    parked: Pending
    dead: Pending


def count_backlog(connection: Connection, standing: Collection[str] = ()) -> Backlog:
    """Count what is not done. Intents of the kinds `standing`, which are always there, are none of it."""
    outbox, intents, parked, dead = tables.outbox, tables.intents, tables.parked, tables.dead_letters
    return Backlog(
        _pending(connection, outbox, outbox.c.time, outbox.c.published_at.is_(None)),
        _pending(connection, intents, intents.c.created_at, intents.c.kind.not_in(list(standing))),
        _pending(connection, parked, parked.c.first_at),
        _pending(connection, dead, dead.c.died_at),
    )


def positions(connection: Connection) -> dict[str, int]:
    """Return how far each consumer has read its stream, for certain."""
    progress = tables.progress.c
    return {row.consumer: row.position for row in connection.execute(select(progress.consumer, progress.position))}


def last_event_seq(connection: Connection) -> int:
    """Return the number of the last event in the outbox; 0 while there is none."""
    return connection.execute(select(func.max(tables.outbox.c.seq))).scalar() or 0


class BacklogMetrics:
    """Gauges of one service's backlog, the same in each of its instances: they count what is in the database."""

    def __init__(self, registry: CollectorRegistry, reader: Reader, clock: Clock, standing: Collection[str]) -> None:
        """`standing` are the kinds of intents that are always there."""
        self._reader = reader
        self._clock = clock
        self._standing = standing
        self._gauges = {
            name: (Gauge(count, f"{what}.", registry=registry), Gauge(oldest, f"{_OLDEST} {what}.", registry=registry))
            for name, count, oldest, what in _GAUGES
        }

    async def run(self) -> None:
        """Keep the gauges fresh until cancelled. While the database does not answer they stay as they were."""
        complained = False
        while True:
            try:
                self._set(await self._reader.run(count_backlog, self._standing))
                complained = False
            except Exception as error:
                if not complained:
                    _log.warning("what is not done cannot be counted", error=describe(error))
                complained = True
            await asyncio.sleep(_REFRESH)

    def _set(self, backlog: Backlog) -> None:
        now = micros(self._clock.now())
        for name, (count, oldest) in self._gauges.items():
            pending: Pending = getattr(backlog, name)
            count.set(pending.count)
            oldest.set(0 if pending.oldest is None else max(0, now - pending.oldest) / 1_000_000)


def _pending(
    connection: Connection, table: Table, since: ColumnElement[int], *conditions: ColumnElement[bool]
) -> Pending:
    query = select(func.count(), func.min(since)).select_from(table).where(*conditions)
    count, oldest = connection.execute(query).one()
    return Pending(count, oldest)
