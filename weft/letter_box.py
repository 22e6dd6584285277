"""What an operator does with letters: look at them, have them handled again, forget them.

To try a dead letter again is to park it, due now, with the event id that it had: the parked events' reader does
the rest, and what was done once is not done twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, tuple_, update

from weft import actions, letter_queries, tables
from weft.clock import micros
from weft.domain import NotFound, Refused
from weft.letter_queries import is_parked, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Row

    from weft.consumer import Consumer
    from weft.letter_queries import Wanted
    from weft.pages import Position
    from weft.writer import Reader, Transaction, Writer

    Part = tuple[list[Row[Any]], Position | None]

AT_ONCE = 1000
"""The most letters that one call changes."""
_BYTES_AT_ONCE = 32 * 1024 * 1024

_dead = tables.dead_letters
_parked = tables.parked


class LetterBox:
    """The letters of one service.

    What is to be changed is named by `Wanted`, and done part by part: each answer says after which position the next
    part begins, None on the last.
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

    async def retry(self, wanted: Wanted, after: Position | None, actor: str, why: str, *, dry_run: bool) -> Part:
        """Have letters tried again; return them as they were.

        Raises `NotFound` if the only id names none, and `Refused` if nobody reads for their consumer any more.
        """
        if dry_run:
            return await self._reader.run(self._find, wanted, after, retry=True)
        found = await self._writer.transact(lambda t: self._retry(t, wanted, after, actor, why))
        self._committed()
        return found

    async def drop(self, wanted: Wanted, after: Position | None, actor: str, why: str, *, dry_run: bool) -> Part:
        """Forget dead letters; return them as they were.

        Raises `NotFound` if the only id names none, and `Refused` if it names a parked event.
        """
        if dry_run:
            return await self._reader.run(self._find, wanted, after, retry=False)
        return await self._writer.transact(lambda t: self._drop(t, wanted, after, actor, why))

    def _find(self, connection: Connection, wanted: Wanted, after: Position | None, *, retry: bool) -> Part:
        found, position = letter_queries.find_part(connection, wanted, AT_ONCE + 1, after)
        if wanted.ids is not None and len(wanted.ids) == 1 and after is None:
            _check_only_one(next(iter(wanted.ids)), found, retry=retry)
        part = found[: _first_too_many(found)]
        following = position(part[-1]) if len(part) < len(found) else None
        if retry:
            self._check_read(part)
        return [row for row in part if retry or not is_parked(row)], following

    def _check_read(self, found: Sequence[Row[Any]]) -> None:
        gone = sorted({row.consumer for row in found} - {one.name for one in self._consumers()})
        if gone:
            raise Refused("CONSUMER_GONE", f"the service has no consumer {', '.join(gone)} any more: drop its letters")

    def _retry(self, t: Transaction, wanted: Wanted, after: Position | None, actor: str, why: str) -> Part:
        found, following = self._find(t.connection, wanted, after, retry=True)
        now = micros(t.now)
        waiting = [row for row in found if is_parked(row)]
        moved = _take_dead(t, [row for row in found if not is_parked(row)])
        if moved:
            rows = [{**_message_of(row), "attempts": 0, "next_at": now} for row in moved.values()]
            t.sql.insert_new(t.connection, _parked, rows, "event_id")
        hurried = _make_due(t, waiting, now)
        done = [row for row in found if is_parked(row) or row.id in moved]
        # What was due already is tried now without anybody's doing.
        _note(t, actor, "retry", why, [row for row in done if not is_parked(row) or (row.consumer, row.key) in hurried])
        if done:
            t.then.append(self._told)
        return done, following

    def _drop(self, t: Transaction, wanted: Wanted, after: Position | None, actor: str, why: str) -> Part:
        found, following = self._find(t.connection, wanted, after, retry=False)
        gone = _take_dead(t, found)
        done = [row for row in found if row.id in gone]
        _note(t, actor, actions.DROP, why, done)
        return done, following


def is_number(text: str) -> bool:
    """Tell whether a text can be a letter's number."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) < 19


def _check_only_one(place: tuple[str, int], found: Sequence[Row[Any]], *, retry: bool) -> None:
    """Raise what is wrong with the only letter that is named."""
    if not found:
        raise NotFound("letter", f"{place[0]}.{place[1]}")
    if not retry and is_parked(found[0]):
        raise Refused("LETTER_PARKED", f"{name_of(found[0])} is parked: only dead letters can be dropped")


def _first_too_many(found: Sequence[Row[Any]]) -> int:
    """Return how many of the letters are changed together."""
    size = 0
    for count, row in enumerate(found):
        size += row.body_size
        if count == AT_ONCE or (count and size > _BYTES_AT_ONCE):
            return count
    return len(found)


def _take_dead(t: Transaction, found: Sequence[Row[Any]]) -> dict[int, Row[Any]]:
    """Delete dead letters, and return by id those that nobody else took meanwhile."""
    if not found:
        return {}
    query = delete(_dead).where(_dead.c.id.in_([row.id for row in found])).returning(*_dead.c)
    return {row.id: row for row in t.connection.execute(query)}


def _make_due(t: Transaction, found: Sequence[Row[Any]], now: int) -> set[tuple[str, str]]:
    """Have parked events tried now, with those that they wait for; return consumers and keys that had to wait yet."""
    if not found:
        return set()
    c = _parked.c
    here = tuple_(c.consumer, c.key).in_({(row.consumer, row.key) for row in found}) & (c.next_at > now)
    changed = t.connection.execute(update(_parked).where(here).values(next_at=now).returning(c.consumer, c.key))
    return {(row.consumer, row.key) for row in changed}


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
