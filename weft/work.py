"""The unit of work: what one command or one event's handler may touch, saved in one transaction.

Several units run in one transaction, one after the other, and share what is loaded. A unit that raises is
taken back in memory and costs only itself; saving happens once, in bulk, after the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import orjson
from sqlalchemy.exc import SQLAlchemyError

from weft import actions, tables
from weft.clock import micros
from weft.domain import Aggregate, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from google.protobuf.message import Message
    from sqlalchemy import Connection

    from weft.answers import Answer
    from weft.sql import Sql
    from weft.store import AggregateStore, Memo
    from weft.tracing import TraceContext

T = TypeVar("T", bound=Aggregate)
R = TypeVar("R")

Load = tuple["AggregateStore[Any]", str]
"""A store and the key of an aggregate in it."""

MAX_EVENT_BYTES = 512 * 1024
"""The largest body of an event: well under the broker's 1 MiB, so that what is stored can be published."""


class Origin(NamedTuple):
    """What a unit of work goes back to; its events and intents carry it on."""

    trace: TraceContext
    correlation_id: str = ""
    """Shared by all that follows from one request; without one, an event's is its aggregate's id."""
    causation_id: str = ""
    """The id of the event that is being handled, if it is one."""


@dataclass(slots=True)
class Unit(Generic[R]):
    """One piece of work: `run` gets the unit of work; `loads` names what it will surely touch."""

    run: Callable[[UnitOfWork], R]
    origin: Origin
    loads: Sequence[Load] = ()
    answer: Answer[Any] | None = None
    """The answer to the call that it is for, if that is saved with it (see `weft.answers`)."""


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """The unit ran; its effects are saved with the transaction."""

    value: R


@dataclass(frozen=True, slots=True)
class Failed:
    """The unit raised; it had no effect."""

    error: Exception


@dataclass(slots=True)
class _Entry:
    """An aggregate in a transaction: as loaded, as the units so far left it, and as it is now."""

    store: AggregateStore[Any]
    key: str
    aggregate: Any
    loaded: Memo | None
    kept: Memo | None
    version: int
    origin: Origin | None = None


@dataclass(slots=True)
class _Effects:
    """Rows that the units so far want written besides their aggregates."""

    events: list[dict[str, Any]] = field(default_factory=list)
    intents: list[dict[str, Any]] = field(default_factory=list)
    withdrawn: list[tuple[str, str]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)


class UnitOfWork:
    """What a command or handler works with: load aggregates, add new ones, promise to act later.

    What the aggregates record is published when the transaction has been committed. Not for threads to share.
    """

    def __init__(self, connection: Connection, sql: Sql, now: datetime) -> None:
        self.now = now
        """The time of this transaction; the same for every unit in it."""
        self.connection = connection
        """For queries only: changes go through aggregates, so that a failed unit can be taken back."""
        self._sql = sql
        self._time = micros(now)
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._effects = _Effects()
        self._touched: dict[tuple[str, str], _Entry] = {}
        self._intended: list[dict[str, Any]] = []
        self._withdrawn: list[tuple[str, str]] = []
        self._acted: list[dict[str, Any]] = []

    def get(self, store: AggregateStore[T], key: str) -> T | None:
        """Return the aggregate with this key, or None."""
        place = (store.name, key)
        entry = self._touched.get(place)
        if entry is None:
            entry = self._entries.get(place)
            if entry is None:
                self.load([(store, key)])
                entry = self._entries[place]
            self._touched[place] = entry
        aggregate: T | None = entry.aggregate
        return aggregate

    def add(self, store: AggregateStore[T], aggregate: T) -> None:
        """Take in a new aggregate. That its key is free is for the caller to know, by `get`."""
        key = store.key_of(aggregate)
        self.get(store, key)
        self._entries[store.name, key].aggregate = aggregate

    def intend(
        self,
        kind: str,
        key: str,
        payload: Mapping[str, Any],
        *,
        after: timedelta = timedelta(0),
        once_published: bool = False,
    ) -> None:
        """Promise to act on `kind`, once per key: now, or `after` a time.

        With `once_published` the time counts from the moment at which the last event of this unit of work is
        with the broker. An open promise of the same kind and key stands; this one is dropped.
        """
        self._intended.append(
            {
                "kind": kind,
                "key": key,
                "payload": orjson.dumps(payload).decode(),
                "due_at": None if once_published else self._time + after // timedelta(microseconds=1),
                "delay": after // timedelta(microseconds=1),
                "attempts": 0,
                "error": "",
                "created_at": self._time,
            }
        )

    def withdraw(self, kind: str, key: str) -> None:
        """Take back an open promise, if there is one."""
        self._intended = [row for row in self._intended if (row["kind"], row["key"]) != (kind, key)]
        self._withdrawn.append((kind, key))

    def record_action(self, action: str, target: str, why: str, outcome: str = "") -> None:
        """Note what an operator does here, to be found by `ListActions`: saved with this unit, or not at all.

        The actor is whoever makes the call in progress. `action` is a verb, as in `cancel_order`; `target` is what
        it is done to; `why` is in the actor's words; `outcome` says for people what came of it.
        """
        self._acted.append(actions.row_of(self._time, actions.actor(), action, target, why, outcome))

    def load(self, loads: Iterable[Load]) -> None:
        """Load what is not loaded yet, with one query a store."""
        wanted: dict[str, tuple[AggregateStore[Any], dict[str, None]]] = {}
        for store, key in loads:
            if (store.name, key) not in self._entries:
                wanted.setdefault(store.name, (store, {}))[1][key] = None
        for name in sorted(wanted):
            store, keys = wanted[name]
            found = store.fetch(self.connection, self._sql, keys)
            for key in keys:
                aggregate, memo = found.get(key, (None, None))
                version = 0 if aggregate is None else aggregate.version
                self._entries[name, key] = _Entry(store, key, aggregate, memo, memo, version)

    def keep(self, origin: Origin) -> None:
        """End a unit: its changes and events are to be saved. Raises `ValueError` for an event that is too large."""
        changes: list[tuple[_Entry, Memo]] = []
        events: list[dict[str, Any]] = []
        for entry in self._touched.values():
            if entry.aggregate is None:
                continue
            recorded = entry.aggregate.take_recorded()
            memo = entry.store.memo(entry.aggregate, entry.kept, recorded)
            if memo != entry.kept:
                changes.append((entry, memo))
            if recorded:
                events += [self._event(one, entry.key, origin) for one in entry.store.published(recorded)]
        for entry, memo in changes:
            entry.kept, entry.origin = memo, origin
        if self._intended or self._withdrawn:
            self._keep_intents(origin, events[-1]["event_id"] if events else None)
        self._effects.events += events
        if self._acted:
            self._effects.actions += self._acted
        self._forget()

    def _keep_intents(self, origin: Origin, last_event: str | None) -> None:
        effects = self._effects
        if self._withdrawn:
            gone = set(self._withdrawn)
            effects.intents = [row for row in effects.intents if (row["kind"], row["key"]) not in gone]
            effects.withdrawn += self._withdrawn
        for row in self._intended:
            if row["due_at"] is None and last_event is None:
                row["due_at"] = self._time + row["delay"]
            starts_with = last_event if row["due_at"] is None else None
            effects.intents.append({**row, "starts_with": starts_with, **_trail(origin, row["key"])})

    def undo(self) -> None:
        """End a unit as if it had not been."""
        for entry in self._touched.values():
            if entry.kept is None:
                entry.aggregate = None
            elif entry.aggregate is not None:
                _restore(entry.aggregate, entry.store.revive(entry.kept, entry.version))
        self._forget()

    def _forget(self) -> None:
        self._touched = {}
        if self._intended:
            self._intended = []
        if self._withdrawn:
            self._withdrawn = []
        if self._acted:
            self._acted = []

    def _event(self, event: Message, key: str, origin: Origin) -> dict[str, Any]:
        return {
            "event_id": new_id(),
            "type": event.DESCRIPTOR.full_name,
            "aggregate_id": key,
            "time": self._time,
            "body": _body(event),
            **_trail(origin, key),
        }

    def flush(self) -> Flushed:
        """Save what the kept units did. Raises `weft.store.Conflict`, or the database's own errors."""
        changed: dict[str, list[_Entry]] = {}
        for entry in self._entries.values():
            if entry.origin is not None and entry.kept != entry.loaded:
                changed.setdefault(entry.store.name, []).append(entry)
        for name in sorted(changed):
            entries = changed[name]
            store = entries[0].store
            store.save(self.connection, self._sql, [(e.aggregate, e.loaded, e.kept) for e in entries], self._time)
            for entry in entries:
                entry.aggregate.version = entry.version + 1
                self._publish_state(entry)
        effects = self._effects
        if effects.withdrawn:
            self._sql.delete(self.connection, tables.intents, effects.withdrawn)
        if effects.intents:
            self._sql.insert_new(self.connection, tables.intents, effects.intents, "kind")
        if effects.events:
            self._sql.insert(self.connection, tables.outbox, effects.events)
        if effects.actions:
            self._sql.insert(self.connection, tables.actions, effects.actions)
        return Flushed(
            frozenset((e.store.name, e.key) for entries in changed.values() for e in entries),
            len(effects.events),
            bool(effects.intents),
        )

    def _publish_state(self, entry: _Entry) -> None:
        event = entry.store.state_event(entry.aggregate, entry.version + 1)
        if event is not None and entry.origin is not None:
            self._effects.events.append(self._event(event, entry.key, entry.origin))


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a transaction saved: aggregates by store and key, how many events, whether any intents."""

    changed: frozenset[tuple[str, str]] = frozenset()
    events: int = 0
    intents: bool = False


def attempt(work: UnitOfWork, unit: Unit[R]) -> Done[R] | Failed:
    """Run one unit and return what became of it; nothing is saved yet.

    Raises the database's own errors: these are nobody's fault, and the whole transaction is to be run again.
    """
    try:
        value = unit.run(work)
        work.keep(unit.origin)
    except SQLAlchemyError:
        raise
    except Exception as error:
        work.undo()
        return Failed(error)
    except SystemExit:  # which would end the writer's thread, and leave the service without one
        work.undo()
        return Failed(RuntimeError("it tried to end the process"))
    return Done(value)


def _restore(aggregate: Aggregate, as_kept: Aggregate) -> None:
    """Give an aggregate the state of another: earlier units may have returned this very object."""
    for name in (name for kind in type(aggregate).__mro__ for name in getattr(kind, "__slots__", ())):
        setattr(aggregate, name, getattr(as_kept, name))
    if hasattr(aggregate, "__dict__"):
        vars(aggregate).clear()
        vars(aggregate).update(vars(as_kept))


def _trail(origin: Origin, key: str) -> dict[str, str]:
    return {
        "traceparent": origin.trace.traceparent,
        "tracestate": origin.trace.tracestate,
        "correlation_id": origin.correlation_id or key,
        "causation_id": origin.causation_id,
    }


def _body(event: Message) -> bytes:
    body = event.SerializeToString()
    if len(body) > MAX_EVENT_BYTES:
        raise ValueError(
            f"{event.DESCRIPTOR.full_name} has {len(body)} bytes; at most {MAX_EVENT_BYTES} can be published"
        )
    return body
