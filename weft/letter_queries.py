"""Which letters a filter or ids mean, read page by page: dead letters and parked events, without their messages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Table, and_, false, func, or_, select, true, tuple_

from weft import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection, Row, Select

    from weft.pages import Position

_dead = tables.dead_letters
_parked = tables.parked
_SHORT = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Letters of one kind that match everything that is given; `before` is a time in microseconds."""

    parked: bool = False
    consumer: str = ""
    event_type: str = ""
    reason: str = ""
    aggregate_id: str = ""
    before: int | None = None
    up_to: int | None = None
    """Of dead letters only those that were there already when this was the last one's `id`."""
    ids: frozenset[tuple[str, int]] | None = None
    """Consumers and numbers in their streams: dead letters and parked events alike."""

    @property
    def table(self) -> Table:
        """Where they are."""
        return _parked if self.parked else _dead

    @property
    def since(self) -> str:
        """The column that says since when a letter has been one."""
        return "first_at" if self.parked else "died_at"

    def page(self, limit: int, after: Position | None = None) -> Select[Any]:
        """Return the query for the oldest, at most `limit`, of those after a position (`position_of`)."""
        order = _order(self.table)
        query = select(*_head(self.table)).where(self._condition()).order_by(*order).limit(limit)
        return query if after is None else query.where(tuple_(*order) > tuple_(*after))

    def _condition(self) -> ColumnElement[bool]:
        columns = self.table.c
        if self.reason and self.parked:
            return false()  # a parked event has none
        conditions: list[ColumnElement[bool]] = [true()]
        if self.consumer:
            conditions.append(columns.consumer == self.consumer)
        if self.event_type:
            last_part = columns.type.endswith(f".{self.event_type}", autoescape=True)
            conditions.append(or_(columns.type == self.event_type, last_part))
        if self.reason:
            conditions.append(columns.reason == self.reason)
        if self.aggregate_id:
            about = columns.subject.endswith(f".{self.aggregate_id}", autoescape=True)
            conditions.append(columns.key == self.aggregate_id if self.parked else about)
        if self.before is not None:
            conditions.append(columns[self.since] < self.before)
        if self.up_to is not None and not self.parked:
            conditions.append(columns.id <= self.up_to)
        if self.ids is not None:
            conditions.append(tuple_(columns.consumer, columns.seq).in_(sorted(self.ids)))
        return and_(*conditions)


def position_kinds(parked: bool) -> tuple[type[str] | type[int], ...]:
    """Return the types of a position's parts."""
    return (int, str, str) if parked else (int,)


def position_of(row: Row[Any]) -> Position:
    """Return where in its list a letter is."""
    return (row.first_at, row.consumer, row.event_id) if is_parked(row) else (row.id,)


def is_parked(row: Row[Any]) -> bool:
    """Tell whether a row is a parked event, and not a dead letter."""
    return "next_at" in row._fields


def name_of(row: Row[Any]) -> str:
    """Return a letter's id, as the contract has it."""
    return f"{row.consumer}.{row.seq}"


def find_page(connection: Connection, wanted: Wanted, limit: int, after: Position | None = None) -> Sequence[Row[Any]]:
    """Return the oldest letters that are wanted, at most `limit`, without headers and body."""
    return connection.execute(wanted.page(limit, after)).all()


def find_whole(connection: Connection, consumer: str, seq: int) -> Row[Any] | None:
    """Return one letter with its headers and body, or None."""
    for table in (_parked, _dead):
        query: Select[Any] = select(*_head(table), table.c.headers, table.c.body)
        query = query.where(table.c.consumer == consumer, table.c.seq == seq)
        found = connection.execute(query.limit(1)).one_or_none()
        if found is not None:
            return found
    return None


def part_kinds(wanted: Wanted) -> tuple[type[str] | type[int], ...]:
    """Return the types of the parts of a position in `find_part`."""
    if wanted.ids is not None:
        return str, int
    return position_kinds(True) if wanted.parked else (int, int)


def find_part(
    connection: Connection, wanted: Wanted, limit: int, after: Position | None
) -> tuple[Sequence[Row[Any]], Callable[[Row[Any]], Position]]:
    """Return letters to be changed, at most `limit` of those after a position, and what tells a letter's position.

    Who goes on from the last one's position meets each letter once: what dies again meanwhile is not met again.
    """
    if wanted.ids is not None:
        return _find_named(connection, wanted.ids, after)[:limit], lambda row: (row.consumer, row.seq)
    if wanted.parked:
        return find_page(connection, wanted, limit, after), position_of
    up_to = int(after[1]) if after else connection.execute(select(func.max(_dead.c.id))).scalar() or 0
    there = replace(wanted, up_to=up_to)
    return find_page(connection, there, limit, after and after[:1]), lambda row: (row.id, up_to)


def _find_named(connection: Connection, ids: Iterable[tuple[str, int]], after: Position | None) -> list[Row[Any]]:
    """Return the letters of these ids that are there, in the order of their ids."""
    left = frozenset(one for one in ids if after is None or one > after)
    if not left:
        return []
    found = [row for parked in (False, True) for row in find_page(connection, Wanted(parked, ids=left), len(left))]
    return sorted(found, key=lambda row: (row.consumer, row.seq))


def find_by_event(connection: Connection, consumers: Iterable[str], event_ids: Iterable[str]) -> list[Row[Any]]:
    """Return the letters of events at consumers, without headers and body."""
    found: list[Row[Any]] = []
    for table in (_parked, _dead):
        here = table.c.consumer.in_(list(consumers)) & table.c.event_id.in_(list(event_ids))
        found += connection.execute(select(*_head(table)).where(here))
    return found


def _order(table: Table) -> tuple[ColumnElement[Any], ...]:
    c = table.c
    return (c.id,) if table is _dead else (c.first_at, c.consumer, c.event_id)


def _head(table: Table) -> list[ColumnElement[Any]]:
    """Return what a list shows of a letter; long texts, which come from outside, are cut."""
    texts = [func.substr(table.c[name], 1, _SHORT).label(name) for name in ("type", "subject", "error")]
    plain = [one for one in table.c if one.name not in ("type", "subject", "error", "headers", "body")]
    return [*plain, *texts, func.length(table.c.body).label("body_size")]
