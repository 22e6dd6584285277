"""What a service has not done yet: counted for operators who ask, and for its metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import Gauge
from sqlalchemy import func, select

from weft import logs, tables
from weft.clock import micros
from weft.letters import describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from prometheus_client import CollectorRegistry
    from sqlalchemy import Column, ColumnElement, Connection

    from weft.clock import Clock
    from weft.writer import Reader

_log = logs.logger("weft.backlog")
_REFRESH = 5.0
MOST = 100_000
"""Where counting ends: a backlog of this size is at least so large."""

_SHARED = "Each instance tells what is in the database that they share: take the max of them, not the sum."
_COUNT = f"How many, or {MOST} if there are more. {_SHARED}"
_OLDEST = f"For how many seconds the oldest has been there; 0 without one. {_SHARED}"
_GAUGES = (
    ("unpublished", "weft_outbox_unpublished", "weft_outbox_oldest_seconds", "Events that the broker does not have"),
    ("intents", "weft_open_intents", "weft_open_intent_oldest_seconds", "Calls to the outside and timers not settled"),
    ("parked", "weft_parked_events", "weft_parked_event_oldest_seconds", "Events that will be tried again"),
    ("dead", "weft_dead_letters", "weft_dead_letter_oldest_seconds", "Events that wait for a person"),
)


@dataclass(frozen=True, slots=True)
class Pending:
    """How many of a kind there are, at most `MOST`, and since when the oldest has been there (microseconds)."""

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
    """Count what is not done, each up to `MOST`, in a time that is bounded by that.

    Intents of the kinds `standing`, which are always there, are none of it. Of more than `MOST` intents, the oldest
    is that of those which are counted.
    """
    outbox, parked, dead = tables.outbox.c, tables.parked.c, tables.dead_letters.c
    return Backlog(
        _pending(connection, outbox.seq, outbox.time, outbox.published_at.is_(None)),
        _open_intents(connection, standing),
        _pending(connection, parked.first_at, parked.first_at),
        _pending(connection, dead.id, dead.died_at),
    )


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
            name: (
                Gauge(count, f"{what}. {_COUNT}", registry=registry),
                Gauge(oldest, f"{what}. {_OLDEST}", registry=registry),
            )
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
    connection: Connection, by_age: Column[int], since: Column[int], *conditions: ColumnElement[bool]
) -> Pending:
    """Count rows of which an index on `by_age` has all that this takes."""
    counted = select(by_age).where(*conditions).limit(MOST).subquery()
    oldest = select(since).where(*conditions).order_by(by_age).limit(1).scalar_subquery()
    return Pending(*connection.execute(select(func.count(), oldest).select_from(counted)).one())


def _open_intents(connection: Connection, standing: Collection[str]) -> Pending:
    # There is no index by age: it would be written twice for each intent, and they are few unless something is down.
    intents = tables.intents.c
    counted = select(intents.created_at).where(intents.kind.not_in(list(standing))).limit(MOST).subquery()
    query = select(func.count(), func.min(counted.c.created_at)).select_from(counted)
    return Pending(*connection.execute(query).one())
