"""Events that the outbox holds as published, and that their stream does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from weft import tables
from weft.events import context_of, stream_of
from weft.scan import Scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from weft.broker import Broker
    from weft.writer import Transaction

_AT_ONCE = 1000
_CLOCKS_APART = 65 * 60 * 1_000_000
"""How far the service's clock and the broker's may be apart: further, and events are published that are not lost,
which costs time and has no effect."""

_outbox = tables.outbox
_columns = _outbox.c["seq", "event_id", "type", "aggregate_id", "time", "published_at"]


class Published(NamedTuple):
    """A row of the outbox that says that its event is published; times in microseconds."""

    seq: int
    event_id: str
    type: str
    aggregate_id: str
    time: int
    published_at: int


def published_from(connection: Connection, seq: int, most: int) -> list[Published]:
    """Return the first rows from a number on that say so, at most `most`, in their order."""
    said = _outbox.c.published_at.is_not(None) & (_outbox.c.seq >= seq)
    query = select(*_columns).where(said).order_by(_outbox.c.seq).limit(most)
    return [Published(*row) for row in connection.execute(query)]


async def find_lost(broker: Broker, rows: Sequence[Published]) -> list[Published]:
    """Return those rows whose events their streams do not have, in their order.

    The rows must have been read before. Raises one of `weft.pull.BrokerTrouble` if the broker cannot tell now.
    """
    by_context: dict[str, dict[str, Published]] = {}
    for row in rows:
        by_context.setdefault(context_of(row.type), {})[row.event_id] = row
    lost: list[Published] = []
    for context, mine in by_context.items():
        await _leave_missing(broker, stream_of(context), mine)
        lost += mine.values()
    return sorted(lost)


async def _leave_missing(broker: Broker, stream: str, rows: dict[str, Published]) -> None:
    """Take away the rows whose events the stream has: it has each between its recording and its being marked."""
    begin = min(row.time for row in rows.values()) - _CLOCKS_APART
    end = max(row.published_at for row in rows.values()) + _CLOCKS_APART
    async with Scan(broker, stream, from_time=begin, headers_only=True) as scan:
        while rows and scan.time <= end and (found := await scan.take(_AT_ONCE)):
            for delivery in found:
                rows.pop(delivery.event_id, None)


def unpublish(transaction: Transaction, rows: Sequence[Published]) -> None:
    """Have the relay publish events again."""
    transaction.sql.mark(transaction.connection, _outbox, "seq", [row.seq for row in rows], "published_at", None)
