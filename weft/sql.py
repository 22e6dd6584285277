"""Bulk statements for SQLite and PostgreSQL, written once per table and run once per batch.

An ORM costs hundreds of microseconds an event here, SQLAlchemy Core tens; a statement per batch costs a few
(see docs/decisions). Rows are dictionaries by column name; values are what the drivers take: str, int,
bytes, bool, None.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.dialects.postgresql.base import PGDialect

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection, Row, Table

_postgresql = PGDialect()  # type: ignore[no-untyped-call]

Values = Mapping[str, Any]


class Sql(Protocol):
    """The statements that the two databases word differently."""

    def execute(self, connection: Connection, statement: str, values: tuple[Any, ...]) -> int:
        """Run a statement whose parameters are question marks; return how many rows it changed."""

    def insert(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """Insert rows that all have the same columns."""

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Values], returning: str) -> set[Any]:
        """Insert the rows whose primary key is not there yet; return the column `returning` of those."""

    def upsert(self, connection: Connection, table: Table, key: str, rows: Sequence[Values]) -> None:
        """Insert rows that all have the same columns, each in the place of the one with its `key` if there is one."""

    def update(self, connection: Connection, table: Table, key: str, rows: Sequence[Values]) -> int:
        """Update the rows whose `key` and `version` match, raise the version by one; return how many did."""

    def select(
        self, connection: Connection, table: Table, key: str, keys: Iterable[Any], order: str, *, lock: bool
    ) -> Sequence[Row[Any]]:
        """Return the rows whose `key` is among `keys`, by `order`, locked in that order if the database can."""

    def mark(
        self, connection: Connection, table: Table, key: str, keys: Sequence[int], column: str, value: Any
    ) -> None:
        """Set one column of the rows whose `key` is among `keys`, numbers in rising order, to one value."""

    def delete(self, connection: Connection, table: Table, keys: Sequence[tuple[Any, ...]]) -> None:
        """Delete rows by primary key."""


def find_row(connection: Connection, table: Table, key: str, value: Any) -> Any | None:
    """Return the row whose `key` is `value`, with its columns as attributes, or None; made for reads.

    What SQLAlchemy does around a statement costs several times what the database does for this one.
    """
    statement = _find_row(table, key, connection.dialect.paramstyle)
    try:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(statement, (value,))
            row = cursor.fetchone()
        finally:
            cursor.close()
    except connection.dialect.loaded_dbapi.Error:
        # Once more, so that it is SQLAlchemy that tells what is wrong, as everywhere else.
        return connection.exec_driver_sql(statement, (value,)).one_or_none()
    return None if row is None else _row_of(table)(*row)


@cache
def _find_row(table: Table, key: str, paramstyle: str) -> str:
    mark = "?" if paramstyle == "qmark" else "%s"
    return f"SELECT {_names(table)} FROM {table.name} WHERE {key} = {mark}"


@cache
def _row_of(table: Table) -> Callable[..., Any]:
    return namedtuple("Row", [c.name for c in table.columns])


@cache
def _or_replace(key: str, names: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{n} = excluded.{n}" for n in names if n != key)
    return f" ON CONFLICT ({key}) DO " + (f"UPDATE SET {assignments}" if assignments else "NOTHING")


def _columns(rows: Sequence[Values]) -> tuple[str, ...]:
    return tuple(rows[0])


class Sqlite:
    """SQLite, whose driver runs a prepared statement over many rows quickest."""

    def execute(self, connection: Connection, statement: str, values: tuple[Any, ...]) -> int:
        """See `Sql.execute`."""
        return connection.exec_driver_sql(statement, values).rowcount

    def insert(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """See `Sql.insert`."""
        names = _columns(rows)
        connection.exec_driver_sql(self._insert(table.name, names), list(map(itemgetter(*names), rows)))

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Values], returning: str) -> set[Any]:
        """See `Sql.insert_new`."""
        names = _columns(rows)
        found: set[Any] = set()
        # executemany discards what RETURNING gives, and 32,766 parameters are the limit of one statement.
        for start in range(0, len(rows), 1000):
            part = rows[start : start + 1000]
            one = f"({', '.join('?' * len(names))})"
            statement = (
                f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {', '.join([one] * len(part))} "
                f"ON CONFLICT DO NOTHING RETURNING {returning}"
            )
            values = tuple(row[n] for row in part for n in names)
            found.update(connection.exec_driver_sql(statement, values).scalars())
        return found

    def upsert(self, connection: Connection, table: Table, key: str, rows: Sequence[Values]) -> None:
        """See `Sql.upsert`."""
        names = _columns(rows)
        statement = self._insert(table.name, names) + _or_replace(key, names)
        connection.exec_driver_sql(statement, [tuple([row[n] for n in names]) for row in rows])

    def update(self, connection: Connection, table: Table, key: str, rows: Sequence[Values]) -> int:
        """See `Sql.update`."""
        names = tuple(n for n in _columns(rows) if n not in (key, "version"))
        values = list(map(itemgetter(*names, key, "version"), rows))
        return connection.exec_driver_sql(self._update(table.name, key, names), values).rowcount

    def select(
        self, connection: Connection, table: Table, key: str, keys: Iterable[Any], order: str, *, lock: bool
    ) -> Sequence[Row[Any]]:
        """See `Sql.select`; nothing to lock, a writer is alone."""
        wanted = tuple(keys)
        marks = ", ".join("?" * len(wanted))
        statement = f"SELECT {_names(table)} FROM {table.name} WHERE {key} IN ({marks}) ORDER BY {order}"
        return connection.exec_driver_sql(statement, wanted).all()

    def mark(
        self, connection: Connection, table: Table, key: str, keys: Sequence[int], column: str, value: Any
    ) -> None:
        """See `Sql.mark`."""
        if keys[-1] - keys[0] + 1 == len(keys):  # the rule, and one statement instead of many
            statement = f"UPDATE {table.name} SET {column} = ? WHERE {key} BETWEEN ? AND ?"
            connection.exec_driver_sql(statement, (value, keys[0], keys[-1]))
            return
        statement = f"UPDATE {table.name} SET {column} = ? WHERE {key} = ?"
        connection.exec_driver_sql(statement, [(value, one) for one in keys])

    def delete(self, connection: Connection, table: Table, keys: Sequence[tuple[Any, ...]]) -> None:
        """See `Sql.delete`."""
        condition = " AND ".join(f"{c.name} = ?" for c in table.primary_key)
        connection.exec_driver_sql(f"DELETE FROM {table.name} WHERE {condition}", list(keys))

    @staticmethod
    @cache
    def _insert(table: str, names: tuple[str, ...]) -> str:
        return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"

    @staticmethod
    @cache
    def _update(table: str, key: str, names: tuple[str, ...]) -> str:
        assignments = ", ".join(f"{n} = ?" for n in names)
        return f"UPDATE {table} SET {assignments}, version = version + 1 WHERE {key} = ? AND version = ?"


class Postgres:
    """PostgreSQL, which takes a whole batch as one array per column: `%b`, in binary, which psycopg writes quickest."""

    def execute(self, connection: Connection, statement: str, values: tuple[Any, ...]) -> int:
        """See `Sql.execute`."""
        return connection.exec_driver_sql(statement.replace("?", "%s"), values).rowcount

    def insert(self, connection: Connection, table: Table, rows: Sequence[Values]) -> None:
        """See `Sql.insert`."""
        names = _columns(rows)
        connection.exec_driver_sql(_pg_insert(table, names), _arrays(rows, names))

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Values], returning: str) -> set[Any]:
        """See `Sql.insert_new`."""
        names = _columns(rows)
        statement = f"{_pg_insert(table, names)} ON CONFLICT DO NOTHING RETURNING {returning}"
        return set(connection.exec_driver_sql(statement, _arrays(rows, names)).scalars())

    def upsert(self, connection: Connection, table: Table, key: str, rows: Sequence[Values]) -> None:
        """See `Sql.upsert`."""
        names = _columns(rows)
        connection.exec_driver_sql(_pg_insert(table, names) + _or_replace(key, names), _arrays(rows, names))

    def update(self, connection: Connection, table: Table, key: str, rows: Sequence[Values]) -> int:
        """See `Sql.update`."""
        names = _columns(rows)
        return connection.exec_driver_sql(_pg_update(table, key, names), _arrays(rows, names)).rowcount

    def select(
        self, connection: Connection, table: Table, key: str, keys: Iterable[Any], order: str, *, lock: bool
    ) -> Sequence[Row[Any]]:
        """See `Sql.select`."""
        statement = _pg_select(table, key, order, lock)
        return connection.exec_driver_sql(statement, (list(keys),)).all()

    def mark(
        self, connection: Connection, table: Table, key: str, keys: Sequence[int], column: str, value: Any
    ) -> None:
        """See `Sql.mark`."""
        statement = f"UPDATE {table.name} SET {column} = %s WHERE {key} = ANY(%b::{_pg_type(table.c[key])}[])"
        connection.exec_driver_sql(statement, (value, list(keys)))

    def delete(self, connection: Connection, table: Table, keys: Sequence[tuple[Any, ...]]) -> None:
        """See `Sql.delete`."""
        names = tuple(c.name for c in table.primary_key)
        condition = " AND ".join(f"t.{n} = d.{n}" for n in names)
        source = f"unnest({_marks(table, names)}) AS d({', '.join(names)})"
        values = tuple(list(column) for column in zip(*keys, strict=True))
        connection.exec_driver_sql(f"DELETE FROM {table.name} t USING {source} WHERE {condition}", values)


@cache
def _pg_type(column: Column[Any]) -> str:
    return column.type.compile(dialect=_postgresql)


def _marks(table: Table, names: Iterable[str]) -> str:
    return ", ".join(f"%b::{_pg_type(table.c[n])}[]" for n in names)


def _arrays(rows: Sequence[Values], names: Iterable[str]) -> tuple[list[Any], ...]:
    return tuple([row[n] for row in rows] for n in names)


@cache
def _names(table: Table) -> str:
    return ", ".join(c.name for c in table.columns)


@cache
def _pg_insert(table: Table, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM unnest({_marks(table, names)})"


@cache
def _pg_update(table: Table, key: str, names: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{n} = v.{n}" for n in names if n not in (key, "version"))
    return (
        f"UPDATE {table.name} t SET {assignments}, version = t.version + 1 "
        f"FROM unnest({_marks(table, names)}) AS v({', '.join(names)}) "
        f"WHERE t.{key} = v.{key} AND t.version = v.version"
    )


@cache
def _pg_select(table: Table, key: str, order: str, lock: bool) -> str:
    suffix = " FOR UPDATE" if lock else ""
    mark = f"%b::{_pg_type(table.c[key])}[]"
    return f"SELECT {_names(table)} FROM {table.name} WHERE {key} = ANY({mark}) ORDER BY {order}{suffix}"
