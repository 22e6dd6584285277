"""The builds of one read model: which one serves, which is in the making, and what is left of former ones.

The row in `read_models` says it for all instances. A build is known by its number, which is part of the names of
its tables and its consumers; so what is left of one is found by looking, and a crash leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, inspect, select

from weft import tables
from weft.clock import micros
from weft.progress import positions
from weft.views import Build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Select

    from weft.consumer import Consumer, Subscribed
    from weft.views import ReadModel
    from weft.writer import Transaction

    MakeConsumers = Callable[[str, Sequence[Subscribed]], list[Consumer]]

_read_models = tables.read_models
_FORGOTTEN_TOGETHER = 2000


class Standing(NamedTuple):
    """The build that serves and the one in progress, 0 for none, and when that was begun (microseconds)."""

    generation: int = 0
    building: int = 0
    begun_at: int = 0

    @property
    def rank(self) -> tuple[int, bool]:
        """What grows with each change: builds are numbered in the order in which they are begun."""
        return max(self.generation, self.building), not self.building


class Builds:
    """The builds of one read model, as this instance knows them."""

    def __init__(self, service: str, model: ReadModel, consumers: MakeConsumers) -> None:
        """`consumers` makes the consumers of some subscriptions, with names that begin with what it is given."""
        self.model = model
        self.serving: Build | None = None
        """What queries read; none before the first build is done, or if the tables are not as the program says."""
        self.standing = Standing()
        self.changed = asyncio.Event()
        """Set when another build serves, or one is begun."""
        self._prefix = f"{service}-{model.name}-g"
        self._make_consumers = consumers
        self._known: dict[int, tuple[Build, list[Consumer]]] = {}

    def get(self, generation: int) -> Build:
        """Return the build that serves, or the one in progress, by its number."""
        return self._known[generation][0]

    def consumers(self, generation: int) -> list[Consumer]:
        """Return what feeds one of these: a consumer a stream."""
        return self._known[generation][1]

    def all_consumers(self) -> list[Consumer]:
        """Return what feeds the build that serves, and the one in progress."""
        return [consumer for _, consumers in self._known.values() for consumer in consumers]

    def _make(self, generation: int) -> tuple[Build, list[Consumer]]:
        if generation in self._known:
            return self._known[generation]
        build = Build(self.model, generation)
        return build, self._make_consumers(f"{self._prefix}{generation}", build.subscriptions())

    def learn(self, standing: Standing, fits: bool) -> None:
        """Take note of what was read in the database. `fits`: the tables of the build that serves are as declared."""
        if standing.rank <= self.standing.rank:
            return  # nothing new: answers may overtake each other
        self._known = {number: self._make(number) for number in {standing.generation, standing.building} - {0}}
        self.standing = standing
        self.serving = self.get(standing.generation) if standing.generation and fits else None
        self.changed.set()

    def read(self, connection: Connection) -> tuple[Standing, bool]:
        """Return what the database says, and whether the tables of the build that serves are as declared."""
        row = connection.execute(self._row()).one_or_none()
        standing = Standing() if row is None else Standing(*row)
        if standing.generation == self.standing.generation:
            return standing, self.serving is not None
        return standing, bool(Build(self.model, standing.generation).fits(connection))

    def begin(self, t: Transaction) -> Standing | None:
        """Have the next build begin, unless one is in progress: then return None, and change nothing."""
        row = {"name": self.model.name, "generation": 0, "building": 0, "begun_at": 0}
        t.sql.insert_new(t.connection, _read_models, [row], "name")
        found = self._locked(t)
        if found.building:
            return None
        return self._write(t, Standing(found.generation, found.generation + 1, micros(t.now)))

    def prepare(self, t: Transaction) -> tuple[Standing, bool]:
        """See that there is a build that serves or is in progress, with its tables; return as `read` does.

        Tables that are not as the program declares them, because an earlier version made them, are not written:
        they are built anew.
        """
        row = {"name": self.model.name, "generation": 0, "building": 1, "begun_at": micros(t.now)}
        t.sql.insert_new(t.connection, _read_models, [row], "name")
        found = self._locked(t)
        fits = found.generation > 0 and bool(Build(self.model, found.generation).fits(t.connection))
        building = found.building
        if building and Build(self.model, building).fits(t.connection) is False:
            building += 1
        if not (fits or building):
            building = found.generation + 1
        if building:
            Build(self.model, building).make(t.connection)
        if building != found.building:
            found = self._write(t, Standing(found.generation, building, micros(t.now)))
        return found, fits

    def switch(self, t: Transaction) -> Standing | None:
        """Have the build in progress serve, and return what is now; None while it may say less than the former one.

        It says less while events of it are parked, and while it is behind in a stream.
        """
        found = self._locked(t)
        new, old = self.consumers(found.building), self.consumers(found.generation) if self.serving else []
        parked = tables.parked.c
        waiting = select(parked.event_id).where(parked.consumer.in_([one.name for one in new])).limit(1)
        if t.connection.execute(waiting).first() is not None:
            return None
        reached = positions(t.connection, [one.name for one in (*new, *old)])
        before = {one.stream: reached.get(one.name, 0) for one in old}
        if any(reached.get(one.name, 0) < before.get(one.stream, 0) for one in new):
            return None
        return self._write(t, Standing(found.building, 0, found.begun_at))

    def _locked(self, t: Transaction) -> Standing:
        return Standing(*t.connection.execute(self._row().with_for_update()).one())

    def _row(self) -> Select[int, int, int]:
        columns = _read_models.c
        query = select(columns.generation, columns.building, columns.begun_at)
        return query.where(columns.name == self.model.name)

    def _write(self, t: Transaction, standing: Standing) -> Standing:
        here = _read_models.c.name == self.model.name
        t.connection.execute(_read_models.update().where(here).values(standing._asdict()))
        return standing

    def number_in(self, consumer: str) -> int:
        """Return the number of the build that a consumer feeds, by its name; 0 if it is another's."""
        match = re.fullmatch(rf"{re.escape(self._prefix)}(\d+)-from-.*", consumer)
        return int(match[1]) if match else 0

    def leftovers(self, connection: Connection) -> set[int]:
        """Return the numbers of builds that are not needed any more, and of which something is there."""
        progress = tables.progress.c.consumer
        names = connection.execute(select(progress).where(progress.startswith(self._prefix, autoescape=True)))
        found = {self.number_in(name) for name in names.scalars()}
        found |= {self._number_in_table(name) for name in inspect(connection).get_table_names()}
        return found - {0, self.standing.generation, self.standing.building}

    def _number_in_table(self, name: str) -> int:
        match = re.fullmatch(rf"{self.model.name}_(\d+)_.*", name)
        return int(match[1]) if match else 0

    def forget_events(self, t: Transaction, generation: int) -> bool:
        """Delete a part of the inbox of a build that is not needed any more; false if there is nothing left.

        Raises `ValueError` for a build that is needed.
        """
        self._check_unneeded(t, generation)
        prefix = f"{self._prefix}{generation}-from-"
        inbox = tables.inbox.c
        names = select(tables.progress.c.consumer).where(tables.progress.c.consumer.startswith(prefix, autoescape=True))
        for name in t.connection.execute(names).scalars().all():
            part = select(inbox.event_id).where(inbox.consumer == name).limit(_FORGOTTEN_TOGETHER)
            gone = delete(tables.inbox).where(inbox.consumer == name, inbox.event_id.in_(part))
            if t.connection.execute(gone).rowcount:
                return True
        return False

    def forget(self, t: Transaction, generation: int) -> None:
        """Delete all that is left of a build: its letters, its progress, its tables. Raises as `forget_events`."""
        self._check_unneeded(t, generation)
        prefix = f"{self._prefix}{generation}-from-"
        for table in (tables.parked, tables.dead_letters, tables.progress):
            t.connection.execute(delete(table).where(table.c.consumer.startswith(prefix, autoescape=True)))
        for name in inspect(t.connection).get_table_names():
            if self._number_in_table(name) == generation:
                t.connection.exec_driver_sql(f"DROP TABLE {name}")

    def _check_unneeded(self, t: Transaction, generation: int) -> None:
        if generation in self._locked(t)[:2]:
            raise ValueError(f"build {generation} of {self.model.name} is needed")
