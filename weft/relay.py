"""The relay: takes committed events from the outbox to the broker, in order, until it has them for certain.

It selects what is not marked published (never above a watermark: a lower number may commit later), publishes,
then marks. A crash between the two publishes again, and the broker knows the id, or the inboxes do. Whenever the
broker may not be what it was, it first sees whether that still has what it acknowledged (`weft.acknowledged`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select, text

from weft import logs, tables
from weft.acknowledged import Acknowledged
from weft.clock import micros
from weft.database import is_lost
from weft.events import context_of, headers_of, subject_of
from weft.pull import BrokerTrouble
from weft.tasks import happens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft.acknowledged import Place
    from weft.broker import Broker, Outgoing
    from weft.leases import Lease
    from weft.writer import Reader, Transaction, Writer

_log = logs.logger("weft.relay")
_BATCH = 1000  # the most that the broker stores as one
_SWEEP = 1.0
_CLEAN_EVERY = 60.0
_CLEAN_AT_ONCE = 5000

_outbox = tables.outbox
_columns = _outbox.c["seq", "type", "event_id", "aggregate_id", "body", "time", *tables.trail]
_unpublished = select(*_columns).where(_outbox.c.published_at.is_(None)).order_by(_outbox.c.seq).limit(_BATCH)
_Row = tuple[Any, ...]
"""One event: the columns of `_columns`."""


class Relay:
    """Publishes the outbox of one service while it holds the lease."""

    def __init__(
        self,
        broker: Broker,
        writer: Writer,
        reader: Reader,
        *,
        source: str,
        starts_intents: bool,
        retention_hours: float,
        also_cleans: Callable[[Transaction], bool],
    ) -> None:
        """`starts_intents`: some of the service's intents count their time from a publication.

        `also_cleans` removes what else is of no more use, a part at a time, and tells whether there may be more.
        """
        self._broker = broker
        self._writer = writer
        self._reader = reader
        self._source = source
        self._starts_intents = starts_intents
        self._retention = int(retention_hours * 3_600_000_000)
        self._cleanings = (self._clean, also_cleans)
        self._acknowledged = Acknowledged(broker, writer, reader)
        self._woken = asyncio.Event()
        broker.on_reconnect(self.wake)

    def wake(self) -> None:
        """Say that something was committed."""
        self._woken.set()

    async def run(self, lease: Lease) -> None:
        """Relay until cancelled, or until the lease is lost (`weft.leases.LeaseLost`)."""
        loop = asyncio.get_running_loop()
        clean_at = loop.time()  # at once: a process may not live for long
        wait, complained = 0.0, False
        self._acknowledged.doubt()  # another instance may have published meanwhile
        while True:
            self._woken.clear()
            try:
                more = await self.publish_some(lease)
                if loop.time() >= clean_at:
                    for clean in self._cleanings:
                        while await self._writer.transact(clean):
                            continue  # as many as there are: it must not fall behind what is added
                    clean_at = loop.time() + _CLEAN_EVERY
                wait = 0.0 if more else _SWEEP
                complained = False
            except BrokerTrouble as error:
                if not complained:
                    _log.warning("the outbox waits for the broker", error=str(error) or type(error).__name__)
                    complained = True
                wait = min(max(wait * 2, 0.05), _SWEEP)
            except Exception as error:
                if not is_lost(error):
                    raise
                _log.warning("the outbox waits for the database", error=str(error))
                wait = _SWEEP
            if wait:
                await happens(self._woken, wait)

    async def publish_some(self, lease: Lease) -> bool:
        """Publish up to one batch; return whether more may be waiting. Raises when the broker takes nothing."""
        await self._acknowledged.make_certain(lease)
        rows = await self._reader.run(_select)
        by_context: dict[str, list[_Row]] = {}
        for row in rows:
            by_context.setdefault(context_of(row[1]), []).append(row)
        for context, mine in by_context.items():
            await self._publish(lease, context, mine)
        return len(rows) == _BATCH

    async def _publish(self, lease: Lease, context: str, rows: Sequence[_Row]) -> None:
        stored = await self._broker.publish([self._message(row) for row in rows])
        if self._acknowledged.contradicts(context, stored):
            self._acknowledged.doubt()
            await self._acknowledged.make_certain(lease)
        if not self._acknowledged.certain:
            # Perhaps they are stored by the broker's next life, of which nobody knows yet what it lost.
            raise TimeoutError(f"the connection was lost while events of {context} were published")
        if stored:
            last = max(stored)
            place = (context, last, rows[stored.index(last)][2])
            await self._writer.transact(partial(self._mark, lease=lease, rows=rows[: len(stored)], place=place))
        if len(stored) < len(rows):
            self._acknowledged.doubt()
            raise TimeoutError(f"{len(rows) - len(stored)} events of {context} are not published yet")

    def _message(self, row: _Row) -> Outgoing:
        _, type_name, event_id, aggregate_id, body, *rest = row
        headers = headers_of(self._source, type_name, event_id, aggregate_id, *rest)
        return subject_of(type_name, aggregate_id), headers, body

    def _mark(self, transaction: Transaction, lease: Lease, rows: Sequence[_Row], place: Place) -> None:
        lease.check(transaction)
        now = micros(transaction.now)
        connection, sql = transaction.connection, transaction.sql
        sql.mark(connection, _outbox, "seq", [row[0] for row in rows], "published_at", now)
        self._acknowledged.note(transaction, place)
        if self._starts_intents:
            waiting = tables.intents.c.starts_with.in_([row[2] for row in rows])
            due_at = now + tables.intents.c.delay
            connection.execute(tables.intents.update().where(waiting).values(due_at=due_at, starts_with=None))

    def _clean(self, transaction: Transaction) -> bool:
        oldest = text(
            "DELETE FROM outbox WHERE published_at < :before "
            "AND seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT :limit) RETURNING seq"
        )
        values = {"limit": _CLEAN_AT_ONCE, "before": micros(transaction.now) - self._retention}
        removed = transaction.connection.execute(oldest, values).scalars().all()
        if removed:
            self._acknowledged.note_removed(transaction, max(removed))
        return len(removed) == _CLEAN_AT_ONCE


def _select(connection: Connection) -> Sequence[_Row]:
    return [tuple(row) for row in connection.execute(_unpublished)]
