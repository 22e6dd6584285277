"""Which letters a filter or ids mean, read page by page: dead letters and parked events, without their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Table, and_, false, func, or_, select, true, tuple_

from weft import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    ids: frozenset[tuple[str, int]] | None = None
    """Consumers and numbers in their streams."""

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
    """Return one letter with its headers and body, or None; were a stream made anew, the one that came last."""
    for table in (_parked, _dead):
        query: Select[Any] = select(*_head(table), table.c.headers, table.c.body)
        query = query.where(table.c.consumer == consumer, table.c.seq == seq)
        newest = query.order_by(*(one.desc() for one in _order(table))).limit(1)
        found = connection.execute(newest).all()
        if found:
            return found[0]
    return None


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
