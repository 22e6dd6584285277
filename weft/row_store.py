"""How the rows of a read model's table are kept: as the aggregates of a unit of work, which writes them in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.domain import Aggregate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message
    from sqlalchemy import Connection, Table

    from weft.sql import Sql
    from weft.store import Change, Memo
    from weft.views import Rows

Row = dict[str, Any]
"""A row by column name; values are what the drivers take: str, int, bytes, bool, None."""


class StoredRow(Aggregate):
    """A row as the unit of work has it: what a unit that fails did to it is taken back."""

    __slots__ = ("values",)

    def __init__(self, values: Row) -> None:
        super().__init__()
        self.values = values


class RowStore:
    """Keeps the rows of one table of one build; an `AggregateStore`."""

    def __init__(self, rows: Rows, table: Table) -> None:
        self.table = table
        self.name = table.name
        self._rows = rows
        self._columns = {column.name: None for column in table.columns}

    def key_of(self, aggregate: StoredRow) -> str:
        """See `AggregateStore`."""
        key: str = aggregate.values[self._rows.key]
        return key

    def fetch(self, connection: Connection, sql: Sql, keys: Iterable[str]) -> dict[str, tuple[StoredRow, Memo]]:
        """See `AggregateStore`."""
        if self._rows.write_only:
            return {}
        key = self._rows.key
        found = [dict(row._mapping) for row in sql.select(connection, self.table, key, keys, key, lock=False)]
        return {values[key]: (StoredRow(values), dict(values)) for values in found}

    def memo(self, aggregate: StoredRow, before: Memo | None, recorded: Sequence[Message]) -> Memo:
        """See `AggregateStore`. Raises `ValueError` for a column that there is not, and for another key."""
        memo = {**self._columns, **aggregate.values}
        if len(memo) > len(self._columns):
            raise ValueError(f"{self._rows.name} has no column {', '.join(sorted(memo.keys() - self._columns.keys()))}")
        if before is not None and memo[self._rows.key] != before[self._rows.key]:
            raise ValueError(f"{self._rows.name}: the key of a row cannot be changed")
        return memo

    def revive(self, memo: Memo, version: int) -> StoredRow:
        """See `AggregateStore`."""
        return StoredRow(dict(memo))

    def save(self, connection: Connection, sql: Sql, changes: Sequence[Change[StoredRow]], now: int) -> None:
        """See `AggregateStore`. Only one instance writes a build, by its lease: there is no version to check."""
        sql.upsert(connection, self.table, self._rows.key, [memo for _, _, memo in changes])

    def published(self, recorded: Sequence[Message]) -> Sequence[Message]:
        """See `AggregateStore`."""
        return ()

    def state_event(self, aggregate: StoredRow, revision: int) -> Message | None:
        """See `AggregateStore`."""
        return None
