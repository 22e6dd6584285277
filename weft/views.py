"""What a read model is made of: tables that hold nothing but what the streams say, and a function for each event.

A read model can be built anew beside the build that serves, so its tables belong to a build: they are declared
once, and made for each build by its number, as in `sales_2_orders`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, Table, inspect, quoted_name

from weft.clock import micros
from weft.events import Malformed
from weft.row_store import Row, RowStore, StoredRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from google.protobuf.message import Message
    from sqlalchemy import Connection
    from sqlmodel import SQLModel

    from weft.events import Delivery
    from weft.work import Load, UnitOfWork

_NAME = re.compile(r"[a-z]+(_[a-z]+)*")


class Rows:
    """A table of a read model: declared like a store's, with one key, and no column `version`.

    `write_only`: functions put its rows, and never get them, so nothing is loaded for them.
    """

    def __init__(self, row: type[SQLModel], *, write_only: bool = False) -> None:
        """`row` is a SQLModel table. Raises `ValueError` unless its primary key is one column."""
        self.template: Table = row.__table__  # type: ignore[attr-defined]
        self.name = self.template.name
        self.write_only = write_only
        keys = [column.name for column in self.template.primary_key]
        if len(keys) != 1:
            raise ValueError(f"{self.name}: a read model's table has a primary key of one column")
        self.key = keys[0]


@dataclass(frozen=True, slots=True)
class Projection:
    """One event type, and the function that writes it into the rows: `function(view, event)`.

    The function is like a handler: it runs once for each event of a build, in the order of each aggregate's events,
    does no I/O, and may hear of events of different streams in any order. `loads` names the rows that it will get,
    so that a batch loads them with one query a table.
    """

    event: type[Message]
    function: Callable[[View, Any], None]
    loads: Callable[[Any], Iterable[tuple[Rows, str]]] = lambda _: ()


class ReadModel:
    """Tables for reading, and what writes them: everything in them follows from the streams."""

    def __init__(self, name: str, rows: Sequence[Rows], projections: Sequence[Projection]) -> None:
        """`name`: lower-case words joined by underscores, part of the names of its tables and consumers.

        Raises `ValueError` for another one, and for two projections of one event.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a read model's name: use lower-case words joined by underscores")
        if len({one.event for one in projections}) < len(projections):
            raise ValueError(f"{name}: one function for each event")
        self.name = name
        self.rows = tuple(rows)
        self.projections = tuple(projections)


class Build:
    """The tables of one build of a read model: `build[rows]` is the `sqlalchemy.Table` to select from."""

    def __init__(self, model: ReadModel, generation: int) -> None:
        self.model = model
        self.generation = generation
        self.metadata = MetaData()
        self.stores = {rows: RowStore(rows, self._table(rows)) for rows in model.rows}

    def __getitem__(self, rows: Rows) -> Table:
        """Return the table of this build. Raises `KeyError` for one that its read model does not have."""
        return self.stores[rows].table

    def subscriptions(self) -> list[Projected]:
        """Return what has a consumer write the tables."""
        return [Projected(one, self.stores) for one in self.model.projections]

    def make(self, connection: Connection) -> None:
        """Make the tables that are not there."""
        self.metadata.create_all(connection)

    def fits(self, connection: Connection) -> bool | None:
        """Tell whether the tables in the database are these; None if there are none."""
        inspector = inspect(connection)
        names = set(inspector.get_table_names())
        wanted = {one.name: {column.name for column in one.columns} for one in self.metadata.tables.values()}
        if not names & wanted.keys():
            return None
        return all(
            name in names and {column["name"] for column in inspector.get_columns(name)} == columns
            for name, columns in wanted.items()
        )

    def _table(self, rows: Rows) -> Table:
        prefix = f"{self.model.name}_{self.generation}_"
        table = rows.template.to_metadata(self.metadata, name=prefix + rows.name)
        # What is declared with a name is there once in every build.
        named = {index.name for index in rows.template.indexes if not index._column_flag}
        for index in table.indexes:
            if index.name in named:
                index.name = quoted_name(f"{prefix}{index.name}", None)
        for constraint in table.constraints:
            if isinstance(constraint.name, str):
                constraint.name = quoted_name(f"{prefix}{constraint.name}", None)
        return table


class View:
    """What a projection's function works with: the rows of the build, and the event as it came.

    There is nothing else: a read model records no event and promises nothing.
    """

    __slots__ = ("_stores", "_work", "event")

    def __init__(self, work: UnitOfWork, stores: Mapping[Rows, RowStore], event: Delivery) -> None:
        self._work = work
        self._stores = stores
        self.event = event
        """The message: its id, type, headers and place in its stream."""

    @property
    def time(self) -> int:
        """When the event happened, in microseconds. `now` would be another one in every build.

        Raises `weft.events.Malformed` if the event does not say.
        """
        try:
            return micros(datetime.fromisoformat(self.event.headers["ce-time"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed("the header ce-time is missing, or no time as in RFC 3339") from error

    def get(self, rows: Rows, key: str) -> Row | None:
        """Return a row, or None. What is changed in it is saved. Raises `ValueError` for write-only rows."""
        if rows.write_only:
            raise ValueError(f"{rows.name} is declared as write_only")
        row = self._work.get(self._stores[rows], key)
        return None if row is None else row.values

    def put(self, rows: Rows, **values: Any) -> Row:
        """Write a row whole, in the place of one of the same key, and return it; a column left out is null."""
        store = self._stores[rows]
        if rows.key not in values:
            raise ValueError(f"{rows.name}: a row needs its key {rows.key}")
        row = self._work.get(store, values[rows.key])
        if row is None:
            self._work.add(store, StoredRow(values))
        else:
            row.values = values
        return values


@dataclass(frozen=True, slots=True)
class Projected:
    """A projection for one build's tables, as a subscription of its consumer."""

    projection: Projection
    stores: Mapping[Rows, RowStore]

    @property
    def event(self) -> type[Message]:
        """See `Subscription`."""
        return self.projection.event

    @property
    def type(self) -> str:
        """See `Subscription`."""
        return self.event.DESCRIPTOR.full_name

    def loads(self, event: Message) -> Iterable[Load]:
        """See `Subscription`."""
        return [(self.stores[rows], key) for rows, key in self.projection.loads(event)]

    def handle(self, work: UnitOfWork, event: Message, delivery: Delivery) -> None:
        """See `Subscription`."""
        self.projection.function(View(work, self.stores, delivery), event)
