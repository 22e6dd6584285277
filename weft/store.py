"""How aggregates are kept: a row each, or the events of each. A service's `store.py` declares its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from weft.sql import find_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from google.protobuf.message import Message
    from sqlalchemy import Connection, Table
    from sqlmodel import SQLModel

    from weft.domain import Aggregate
    from weft.sql import Sql

T = TypeVar("T", bound="Aggregate")

Memo = Any
"""What a store remembers of an aggregate's state, to see changes and to take them back."""


Change = tuple[T, Memo | None, Memo]


class Conflict(Exception):
    """Somebody else saved an aggregate since it was loaded; the unit of work is to be run again."""


class AggregateStore(Protocol[T]):
    """What the unit of work needs to know of a store. All methods run on the writer thread."""

    name: str

    def key_of(self, aggregate: T) -> str:
        """Return the aggregate's id."""

    def fetch(self, connection: Connection, sql: Sql, keys: Iterable[str]) -> dict[str, tuple[T, Memo]]:
        """Load those of `keys` that exist."""

    def memo(self, aggregate: T, before: Memo | None, recorded: Sequence[Message]) -> Memo:
        """Return what to remember, given what was remembered before and the events recorded since."""

    def revive(self, memo: Memo, version: int) -> T:
        """Make the aggregate again as it was when `memo` was taken."""

    def save(self, connection: Connection, sql: Sql, changes: Sequence[Change[T]], now: int) -> None:
        """Save aggregates, each with its memo when loaded (None: it is new) and now; `now` in microseconds.

        Raises `Conflict` if one was saved by somebody else meanwhile.
        """

    def published(self, recorded: Sequence[Message]) -> Sequence[Message]:
        """Return those of the recorded events that leave the service."""

    def state_event(self, aggregate: T, revision: int) -> Message | None:
        """Return the event that carries an aggregate's new state, for stores that publish one."""


class Store(Generic[T]):
    """Keeps each aggregate as one row, with its version in the column `version`.

    `load` makes an aggregate from a row (attributes by column name), `dump` returns the columns' values
    without `version`. With `state`, an event made of the changed aggregate and its new version is published
    once per aggregate and transaction. `contended` rows, which several units of work touch, are locked when
    they are loaded for a change, in the order of their keys.
    """

    def __init__(
        self,
        row: type[SQLModel],
        *,
        key: str,
        load: Callable[[Any], T],
        dump: Callable[[T], dict[str, Any]],
        state: Callable[[T, int], Message] | None = None,
        contended: bool = False,
    ) -> None:
        self.table: Table = row.__table__  # type: ignore[attr-defined]
        self.name = self.table.name
        self._key = key
        self._load = load
        self._dump = dump
        self._state = state
        self._contended = contended

    def find(self, connection: Connection, key: str) -> T | None:
        """Return one aggregate for reading, or None."""
        row = find_row(connection, self.table, self._key, key)
        return None if row is None else self._from_row(row)

    def from_rows(self, rows: Iterable[Any]) -> list[T]:
        """Return the aggregates in rows of the table that a query selected."""
        return [self._from_row(row) for row in rows]

    def _from_row(self, row: Any) -> T:
        aggregate = self._load(row)
        aggregate.version = row.version
        return aggregate

    def key_of(self, aggregate: T) -> str:
        """See `AggregateStore`."""
        key: str = getattr(aggregate, self._key)
        return key

    def fetch(self, connection: Connection, sql: Sql, keys: Iterable[str]) -> dict[str, tuple[T, Memo]]:
        """See `AggregateStore`."""
        rows = sql.select(connection, self.table, self._key, keys, self._key, lock=self._contended)
        found = {}
        for row in rows:
            aggregate = self._from_row(row)
            found[self.key_of(aggregate)] = (aggregate, self._dump(aggregate))
        return found

    def memo(self, aggregate: T, before: Memo | None, recorded: Sequence[Message]) -> Memo:
        """See `AggregateStore`."""
        return self._dump(aggregate)

    def revive(self, memo: Memo, version: int) -> T:
        """See `AggregateStore`."""
        return self._from_row(SimpleNamespace(**memo, version=version))

    def save(self, connection: Connection, sql: Sql, changes: Sequence[Change[T]], now: int) -> None:
        """See `AggregateStore`."""
        new = [{**memo, "version": 1} for _, before, memo in changes if before is None]
        changed = [{**memo, "version": one.version} for one, before, memo in changes if before is not None]
        if changed:
            # In the order of keys, as others lock them, so that two instances never wait for each other.
            changed.sort(key=lambda row: row[self._key])
            if sql.update(connection, self.table, self._key, changed) != len(changed):
                raise Conflict(f"{self.name}: changed by somebody else")
        if new:
            sql.insert(connection, self.table, new)

    def published(self, recorded: Sequence[Message]) -> Sequence[Message]:
        """See `AggregateStore`."""
        return recorded

    def state_event(self, aggregate: T, revision: int) -> Message | None:
        """See `AggregateStore`."""
        return None if self._state is None else self._state(aggregate, revision)


class EventStore(Generic[T]):
    """Keeps each aggregate as the events that it recorded: its state is their replay (event sourcing).

    The table has the columns `key` (named by `key`), `version` (1, 2, ...; unique with the key), `type`,
    `body` and `time`. `replay` makes an aggregate from its events, oldest first.
    """

    def __init__(
        self,
        row: type[SQLModel],
        *,
        key: str,
        replay: Callable[[Sequence[Message]], T],
        types: Iterable[type[Message]],
        publish: Iterable[type[Message]],
    ) -> None:
        self.table: Table = row.__table__  # type: ignore[attr-defined]
        self.name = self.table.name
        self._key = key
        self._replay = replay
        self._types = {kind.DESCRIPTOR.full_name: kind for kind in types}
        self._publish = frozenset(kind.DESCRIPTOR.full_name for kind in publish)

    def from_rows(self, rows: Iterable[Any]) -> dict[str, T]:
        """Return the aggregates whose rows a query selected, ordered by version, by key."""
        return {key: self.revive(events, len(events)) for key, events in self._journals(rows).items()}

    def _journals(self, rows: Iterable[Any]) -> dict[str, tuple[Message, ...]]:
        journals: dict[str, list[Message]] = {}
        for row in rows:
            event = self._types[row.type].FromString(row.body)
            journals.setdefault(getattr(row, self._key), []).append(event)
        return {key: tuple(events) for key, events in journals.items()}

    def key_of(self, aggregate: T) -> str:
        """See `AggregateStore`."""
        key: str = getattr(aggregate, self._key)
        return key

    def fetch(self, connection: Connection, sql: Sql, keys: Iterable[str]) -> dict[str, tuple[T, Memo]]:
        """See `AggregateStore`."""
        rows = sql.select(connection, self.table, self._key, keys, f"{self._key}, version", lock=False)
        return {key: (self.revive(events, len(events)), events) for key, events in self._journals(rows).items()}

    def memo(self, aggregate: T, before: Memo | None, recorded: Sequence[Message]) -> Memo:
        """See `AggregateStore`."""
        return (*(before or ()), *recorded)

    def revive(self, memo: Memo, version: int) -> T:
        """See `AggregateStore`."""
        aggregate = self._replay(memo)
        aggregate.version = version
        return aggregate

    def save(self, connection: Connection, sql: Sql, changes: Sequence[Change[T]], now: int) -> None:
        """See `AggregateStore`."""
        rows: list[Mapping[str, Any]] = []
        for aggregate, before, memo in changes:
            start = len(before or ())
            for number, event in enumerate(memo[start:], start + 1):
                rows.append(
                    {
                        self._key: self.key_of(aggregate),
                        "version": number,
                        "type": event.DESCRIPTOR.full_name,
                        "body": event.SerializeToString(),
                        "time": now,
                    }
                )
        # A version that is taken already breaks the primary key: the same as a conflict.
        if rows:
            sql.insert(connection, self.table, rows)

    def published(self, recorded: Sequence[Message]) -> Sequence[Message]:
        """See `AggregateStore`."""
        return [event for event in recorded if event.DESCRIPTOR.full_name in self._publish]

    def state_event(self, aggregate: T, revision: int) -> Message | None:
        """See `AggregateStore`; a journal's events carry all there is."""
        return None
