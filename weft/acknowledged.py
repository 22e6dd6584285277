"""What the broker acknowledged last, and whether it still has it: it may come back with less than it had.

It may have been restored from a backup, have lost its tail in a power cut, or have a stream that was made anew. So
with each batch that is marked published, the relay notes which event was acknowledged last, and its number in the
stream. Not how far the stream goes tells of a loss, because something may have been stored since, but which event
is at that number.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import select

from weft import actions, logs, tables
from weft.events import context_of, stream_of
from weft.lost import Published, find_lost, published_from, unpublish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from weft.broker import Broker
    from weft.leases import Lease
    from weft.writer import Reader, Transaction, Writer

_log = logs.logger("weft.relay")
_COMPARE_AT_ONCE = 50_000
_CHANGE_AT_ONCE = 5000

Place = tuple[str, int, str]
"""A context, a number in its stream, and the id of the event there."""

_REMOVED = ""
"""Stands in `published` for a context: its `seq` is the last number that was removed from the outbox."""

_note = (
    "INSERT INTO published (context, seq, event_id) VALUES (?, ?, ?) ON CONFLICT (context) "
    "DO UPDATE SET seq = excluded.seq, event_id = excluded.event_id WHERE excluded.seq > published.seq"
)


class Acknowledged:
    """The last event of each context that the broker acknowledged to the relay, which alone uses this."""

    def __init__(self, broker: Broker, writer: Writer, reader: Reader) -> None:
        self._broker = broker
        self._writer = writer
        self._reader = reader
        self._last: dict[str, int] = {}
        # The losses of the connection when the broker was seen to have it; None while that is in doubt.
        self._seen_at: int | None = None

    @property
    def certain(self) -> bool:
        """Whether the broker is the one that has it: the connection was not lost since that was seen."""
        return self._seen_at == self._broker.losses

    def doubt(self) -> None:
        """Say that the broker may not have it any more."""
        self._seen_at = None

    def note(self, transaction: Transaction, place: Place) -> None:
        """Note what was acknowledged, in the transaction that marks it published; nothing if more is noted already."""
        context, seq, _ = place
        if seq <= self._last.get(context, 0):
            return
        transaction.sql.execute(transaction.connection, _note, place)
        transaction.then.append(lambda: self._last.update({context: max(seq, self._last.get(context, 0))}))

    @staticmethod
    def note_removed(transaction: Transaction, seq: int) -> None:
        """Note up to which number the outbox was emptied, in the transaction that does."""
        transaction.sql.execute(transaction.connection, _note, (_REMOVED, seq, ""))

    def contradicts(self, context: str, stored: Sequence[int]) -> bool:
        """Tell whether an event was stored where the stream already had one: it lost that, or knew the event."""
        return bool(stored) and min(stored) <= self._last.get(context, 0)

    async def make_certain(self, lease: Lease) -> None:
        """If there is doubt, see whether the broker has it; if not, have everything published again that it lost.

        Raises one of `weft.pull.BrokerTrouble` if it cannot tell now, and `LeaseLost`.
        """
        losses = self._broker.losses
        if self._seen_at == losses:
            return
        last = {}
        for context, seq, event_id in await self._reader.run(_places):
            await self._broker.ensure_stream(context)
            found = await self._broker.message_at(stream_of(context), seq)
            kept = found is not None and found.event_id == event_id
            last[context] = seq if kept else await self._recover(lease, context, seq)
        self._last = last
        self._seen_at = losses

    async def _recover(self, lease: Lease, context: str, seq: int) -> int:
        """Have everything published again that a stream lost; return where the stream ends now."""
        stream = stream_of(context)
        _log.error("the broker lost events that it had acknowledged: looking which", stream=stream, acknowledged=seq)
        count, further_back = await self._unpublish_lost(lease, context)
        last = await self._broker.last_seq(stream)
        found = await self._broker.message_at(stream, last) if last else None
        outcome = f"{count} events are published again"
        if further_back:
            outcome += "; older ones may be lost too, which the outbox does not keep any more"

        def conclude(transaction: Transaction) -> None:
            lease.check(transaction)
            sql, connection = transaction.sql, transaction.connection
            sql.execute(connection, "DELETE FROM published WHERE context = ?", (context,))
            if found is not None:
                sql.execute(connection, _note, (context, found.seq, found.event_id))
            why = f"the stream does not have the event any more that was acknowledged as its number {seq}"
            actions.write_down(transaction, actions.ITSELF, "republish", stream, why, outcome)

        await self._writer.transact(conclude)
        _log.error("the broker lost events that it had acknowledged", stream=stream, events=count, outcome=outcome)
        return last if found is not None else 0

    async def _unpublish_lost(self, lease: Lease, context: str) -> tuple[int, bool]:
        """Return how many events are to be published again, and whether the loss may reach beyond the outbox."""
        begins_at_loss = True
        complete = await self._reader.run(_nothing_removed)
        number = count = 0
        begun = False
        while rows := await self._reader.run(published_from, number, _COMPARE_AT_ONCE):
            if mine := [row for row in rows if context_of(row.type) == context]:
                lost = await find_lost(self._broker, mine)
                if not begun:
                    begun, begins_at_loss = True, lost[:1] == mine[:1]
                for start in range(0, len(lost), _CHANGE_AT_ONCE):
                    part = lost[start : start + _CHANGE_AT_ONCE]
                    await self._writer.transact(partial(self._unpublish, lease=lease, rows=part))
                count += len(lost)
            number = rows[-1].seq + 1
        return count, begins_at_loss and not complete

    @staticmethod
    def _unpublish(transaction: Transaction, lease: Lease, rows: Sequence[Published]) -> None:
        lease.check(transaction)
        unpublish(transaction, rows)


def _places(connection: Connection) -> Sequence[Place]:
    published = tables.published.c
    query = select(published.context, published.seq, published.event_id).where(published.context != _REMOVED)
    return [(context, seq, event_id) for context, seq, event_id in connection.execute(query)]


def _nothing_removed(connection: Connection) -> bool:
    """Tell whether the outbox has every event still; its numbers do not say so, as some are never used."""
    removed = select(tables.published.c.seq).where(tables.published.c.context == _REMOVED)
    return connection.execute(removed).first() is None
