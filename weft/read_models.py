"""The read models of a service (CQRS): asked, built anew beside the build that serves, and watched while they are.

A read model holds nothing but what the streams say, so it can be made again from their beginning: after its function
was mended, or to answer a new question. Queries go to the build that serves; see `weft.feeder` for how it changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError

from weft import actions, logs
from weft.builds import Builds
from weft.clock import from_micros, timestamp
from weft.database import is_lost
from weft.domain import NotFound, Unavailable
from weft.feeder import Feeder
from weft.letters import describe
from weft.progress import progress_of
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection

    from weft.broker import Broker
    from weft.builds import MakeConsumers
    from weft.consumer import Consumer
    from weft.leases import Leases
    from weft.views import Build, ReadModel
    from weft.writer import Reader, Transaction, Writer

P = ParamSpec("P")
R = TypeVar("R")

_log = logs.logger("weft.read_models")
_LOOK_AGAIN = 1.0


class UnknownReadModel(NotFound):
    """There is no read model of this name; the text names those that there are."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__("read model", name)
        there = f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}" if known else "the service has none"
        self.args = (f"{self.args[0]}: {there}",)


class ModelReader:
    """Runs queries on the build of a read model that serves."""

    def __init__(self, builds: Builds, reader: Reader, look: Callable[[], Awaitable[None]]) -> None:
        """`look` finds out which build serves."""
        self._builds = builds
        self._reader = reader
        self._look = look

    async def run(
        self, query: Callable[Concatenate[Connection, Build, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `query` with a connection and the build, whose tables are `build[rows]`.

        It runs once more if another build took the place of that one meanwhile. Raises `Unavailable` before the first
        build is done, and what `Reader.run` raises.
        """
        return await self._ask(self._reader.run, lambda build: lambda c: query(c, build, *args, **kwargs))

    async def look_up(
        self, query: Callable[Concatenate[Connection, Build, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a query that finds by key what takes microseconds to find; else as `run`."""
        return await self._ask(self._reader.look_up, lambda build: lambda c: query(c, build, *args, **kwargs))

    async def _ask(
        self,
        ask: Callable[[Callable[[Connection], R]], Awaitable[R]],
        query: Callable[[Build], Callable[[Connection], R]],
    ) -> R:
        build = self._serving()
        try:
            return await ask(query(build))
        except DBAPIError as error:
            if is_lost(error):
                raise
            await self._look()
            if self._serving() is build:
                raise
        return await ask(query(self._serving()))

    def _serving(self) -> Build:
        if self._builds.serving is None:
            raise Unavailable(f"the read model {self._builds.model.name} is being built; try again later")
        return self._builds.serving


class ReadModels:
    """All read models of one service."""

    def __init__(self, service: str, *, broker: Broker, writer: Writer, reader: Reader, alone: bool) -> None:
        """`alone`: no other instance can use this database."""
        self._service = service
        self._broker = broker
        self._writer = writer
        self._reader = reader
        self._alone = alone
        self._feeders: dict[str, Feeder] = {}

    def add(self, model: ReadModel, consumers: MakeConsumers) -> ModelReader:
        """Take in a read model, and return what asks it. Raises `ValueError` for a second one of a name."""
        if model.name in self._feeders:
            raise ValueError(f"there are two read models of the name {model.name}")
        builds = Builds(self._service, model, consumers)
        self._feeders[model.name] = Feeder(
            builds, broker=self._broker, writer=self._writer, reader=self._reader, alone=self._alone
        )
        return ModelReader(builds, self._reader, self.look)

    @property
    def consumers(self) -> list[Consumer]:
        """What feeds the builds that serve and those in progress now."""
        return [one for feeder in self._feeders.values() for one in feeder.builds.all_consumers()]

    def lease_to(self, leases: Leases) -> None:
        """Have each read model fed by the instance that holds its lease."""
        for feeder in self._feeders.values():
            leases.add(feeder.name, feeder.run)

    def attached(self, leases: Leases) -> bool:
        """Whether every read model is fed, by this instance or by another one."""
        return all(one.attached or not leases.holds(one.name) for one in self._feeders.values())

    async def look(self) -> None:
        """Find out which builds serve, and which are in progress."""
        for feeder in self._feeders.values():
            feeder.builds.learn(*await self._reader.run(feeder.builds.read))

    async def watch(self) -> None:
        """Look again and again, until cancelled: another instance may have switched, or been asked for a build."""
        complained = False
        while self._feeders and not self._alone:
            await asyncio.sleep(_LOOK_AGAIN)
            try:
                await self.look()
                complained = False
            except Exception as error:
                if not complained:
                    _log.warning("which builds serve cannot be seen", error=describe(error))
                complained = True

    async def rebuild(self, request: api.RebuildRequest, actor: str) -> api.ReadModel:
        """Begin to build a read model anew, unless that is in progress; return how it stands.

        Raises `NotFound`, which names the read models that there are.
        """
        feeder = self._feeders.get(request.read_model)
        if feeder is None:
            raise UnknownReadModel(request.read_model, sorted(self._feeders))
        builds = feeder.builds

        def begin(t: Transaction) -> None:
            if (begun := builds.begin(t)) is not None:
                outcome = f"build {begun.building} begun"
                actions.write_down(t, actor, "rebuild", request.read_model, request.why, outcome)

        await self._writer.transact(begin)
        await self.look()
        return await self._told(builds)

    async def list(self) -> list[api.ReadModel]:
        """Return every read model, and how far a build in progress has come."""
        await self.look()
        return [await self._told(one.builds) for _, one in sorted(self._feeders.items())]

    async def _told(self, builds: Builds) -> api.ReadModel:
        standing = builds.standing
        told = api.ReadModel(read_model=builds.model.name, generation=standing.generation, building=standing.building)
        if standing.building:
            told.begin_time.CopyFrom(timestamp(from_micros(standing.begun_at)))
            told.progress.extend(await progress_of(self._reader, builds.consumers(standing.building)))
        return told
