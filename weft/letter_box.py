"""What an operator does with letters: look at them, have them handled again, forget them.

To try a dead letter again is to park it, due now, with the event id that it had: the parked events' reader does
the rest, and what was done once is not done twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, tuple_, update

from weft import actions, letter_queries, tables
from weft.clock import micros
from weft.domain import NotFound, Refused
from weft.letter_queries import is_parked, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Connection, Row

    from weft.consumer import Consumer
    from weft.letter_queries import Wanted
    from weft.writer import Reader, Transaction, Writer

AT_ONCE = 1000
"""The most letters that one call changes."""
_BYTES_AT_ONCE = 32 * 1024 * 1024

_dead = tables.dead_letters
_parked = tables.parked


class LetterBox:
    """The letters of one service.

    Letters are named by `Wanted`; with its `ids`, dead letters and parked events alike.
    """

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        consumers: Callable[[], Sequence[Consumer]],
        *,
        parked: Callable[[], None],
        committed: Callable[[], None],
    ) -> None:
        """`consumers` returns those that the service has now. When letters are to be tried again, `parked` is called in
        the writer's thread, before anything else is written, and `committed` on the event loop."""
        self._writer = writer
        self._reader = reader
        self._consumers = consumers
        self._told = parked
        self._committed = committed

    async def show(self, letter_id: str) -> Row[Any]:
        """Return a letter with its headers and body. Raises `NotFound`."""
        consumer, _, number = letter_id.rpartition(".")
        row = None
        if is_number(number):
            row = await self._reader.run(letter_queries.find_whole, consumer, int(number))
        if row is None:
            raise NotFound("letter", letter_id)
        return row

    async def retry(self, wanted: Wanted, actor: str, why: str, *, dry_run: bool) -> tuple[list[Row[Any]], bool]:
        """Have letters tried again; return them as they were, and whether there are more.

        Raises `NotFound` for an id that names none, and `Refused` if nobody reads for their consumer any more.
        """
        if dry_run:
            return await self._reader.run(self._find, wanted, retry=True)
        found = await self._writer.transact(lambda t: self._retry(t, wanted, actor, why))
        self._committed()
        return found

    async def drop(self, wanted: Wanted, actor: str, why: str, *, dry_run: bool) -> tuple[list[Row[Any]], bool]:
        """Forget dead letters; return them as they were, and whether there are more.

        Raises `NotFound` for an id that names none, and `Refused` if one names a parked event.
        """
        if dry_run:
            return await self._reader.run(self._find, wanted, retry=False)
        return await self._writer.transact(lambda t: self._drop(t, wanted, actor, why))

    def _find(self, connection: Connection, wanted: Wanted, *, retry: bool) -> tuple[list[Row[Any]], bool]:
        found: list[Row[Any]] = []
        for one in (wanted, replace(wanted, parked=not wanted.parked))[: 1 if wanted.ids is None else 2]:
            found += letter_queries.find_page(connection, one, AT_ONCE + 1 - len(found))
        if wanted.ids is not None:
            _check_all_there(wanted.ids, found)
        size = 0
        for count, row in enumerate(found):
            size += row.body_size
            if count == AT_ONCE or (count and size > _BYTES_AT_ONCE):
                found, more = found[:count], True
                break
        else:
            more = False
        if retry:
            self._check_read(found)
        else:
            _check_dead(found)
        return found, more

    def _check_read(self, found: Sequence[Row[Any]]) -> None:
        gone = sorted({row.consumer for row in found} - {one.name for one in self._consumers()})
        if gone:
            raise Refused("CONSUMER_GONE", f"the service has no consumer {', '.join(gone)} any more: drop its letters")

    def _retry(self, t: Transaction, wanted: Wanted, actor: str, why: str) -> tuple[list[Row[Any]], bool]:
        found, more = self._find(t.connection, wanted, retry=True)
        now = micros(t.now)
        waiting = [row for row in found if is_parked(row)]
        moved = _take_dead(t, [row for row in found if not is_parked(row)])
        if moved:
            rows = [{**_message_of(row), "attempts": 0, "next_at": now} for row in moved.values()]
            t.sql.insert_new(t.connection, _parked, rows, "event_id")
        hurried = _make_due(t, waiting, now)
        done = [row for row in found if row.event_id in hurried or (not is_parked(row) and row.id in moved)]
        _note(t, actor, "retry", why, done)
        if done:
            t.then.append(self._told)
        return done, more

    def _drop(self, t: Transaction, wanted: Wanted, actor: str, why: str) -> tuple[list[Row[Any]], bool]:
        found, more = self._find(t.connection, wanted, retry=False)
        gone = _take_dead(t, found)
        done = [row for row in found if row.id in gone]
        _note(t, actor, "drop", why, done)
        return done, more


def is_number(text: str) -> bool:
    """Tell whether a text can be a message's number in its stream."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def _check_all_there(ids: Collection[tuple[str, int]], found: Sequence[Row[Any]]) -> None:
    missing = set(ids) - {(row.consumer, row.seq) for row in found}
    if missing:
        consumer, seq = min(missing)
        raise NotFound("letter", f"{consumer}.{seq}")


def _check_dead(found: Sequence[Row[Any]]) -> None:
    for row in found:
        if is_parked(row):
            raise Refused("LETTER_PARKED", f"{name_of(row)} is parked: only dead letters can be dropped")


def _take_dead(t: Transaction, found: Sequence[Row[Any]]) -> dict[int, Row[Any]]:
    """Delete dead letters, and return by id those that nobody else took meanwhile."""
    if not found:
        return {}
    query = delete(_dead).where(_dead.c.id.in_([row.id for row in found])).returning(*_dead.c)
    return {row.id: row for row in t.connection.execute(query)}


def _make_due(t: Transaction, found: Sequence[Row[Any]], now: int) -> set[str]:
    """Have parked events tried now, with those that they wait for; return the ids of all."""
    if not found:
        return set()
    here = tuple_(_parked.c.consumer, _parked.c.key).in_({(row.consumer, row.key) for row in found})
    query = update(_parked).where(here).values(next_at=now).returning(_parked.c.event_id)
    return set(t.connection.execute(query).scalars())


def _message_of(row: Row[Any]) -> dict[str, Any]:
    """Return the columns that a dead letter and a parked event share, and the key."""
    names = {one.name for one in _dead.c} & {one.name for one in _parked.c}
    return {**{name: row._mapping[name] for name in names}, "key": row.subject.rpartition(".")[2]}


def _note(t: Transaction, actor: str, action: str, why: str, done: Sequence[Row[Any]]) -> None:
    """Write down what was done, a row for each letter."""
    rows = [actions.row_of(micros(t.now), actor, action, row.event_id, why, _outcome(row)) for row in done]
    if rows:
        t.sql.insert(t.connection, tables.actions, rows)


def _outcome(row: Row[Any]) -> str:
    was = "parked" if is_parked(row) else row.reason
    event = f"{row.type.rpartition('.')[2]} of {row.subject.rpartition('.')[2]}"
    return f"{name_of(row)}: {event}, was {was} after {row.attempts} attempts: {row.error}"
