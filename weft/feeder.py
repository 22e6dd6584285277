"""The life of one read model on the instance that holds its lease: fed from the streams, built anew, switched.

Consumers feed the build that serves, and beside it the one in progress, from the beginning of each stream. Once that
one has caught up, one transaction has it serve; then what is left of the former one is removed. Each step begins
with what the database says, so that a crash between any two of them resumes.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from weft import logs
from weft._nats import NotFoundError
from weft.letters import describe
from weft.pull import BrokerTrouble
from weft.tasks import end, happens

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from weft.broker import Broker
    from weft.builds import Builds, Standing
    from weft.consumer import Consumer
    from weft.leases import Lease
    from weft.writer import Reader, Transaction, Writer

_log = logs.logger("weft.feeder")
_SOON = 1.0
_LINGER = 2.0


class Feeder:
    """Feeds the builds of one read model."""

    def __init__(self, builds: Builds, *, broker: Broker, writer: Writer, reader: Reader, alone: bool) -> None:
        """`alone`: no other instance can use this database."""
        self.builds = builds
        self.name = f"read-model-{builds.model.name}"
        self._broker = broker
        self._writer = writer
        self._reader = reader
        self._linger = 0.0 if alone else _LINGER
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def attached(self) -> bool:
        """Whether every stream of what it feeds is being read."""
        feeding = [one for one in self.builds.all_consumers() if one.name in self._running]
        return bool(feeding) and all(one.attached for one in feeding)

    async def run(self, lease: Lease) -> None:
        """Feed, build and switch until cancelled, or until the lease is lost (`LeaseLost`)."""
        builds, wait = self.builds, 0.05
        try:
            while True:
                standing, fits = await self._writer.transact(partial(self._prepare, lease=lease))
                builds.learn(standing, fits)
                builds.changed.clear()
                if builds.standing != standing:
                    # A build was begun meanwhile; or the database is one of before, which a new start takes up.
                    await happens(builds.changed, wait)
                    wait = min(wait * 2, _SOON)
                    continue
                wait = 0.05
                await self._feed(lease)
                await self._while_fed(self._complete(lease) if standing.building else self._rest(lease))
        finally:
            await end(*self._running.values())
            self._running.clear()

    def _prepare(self, t: Transaction, lease: Lease) -> tuple[Standing, bool]:
        lease.check(t)
        return self.builds.prepare(t)

    async def _feed(self, lease: Lease) -> None:
        """Run the consumers of the builds that are needed, and no others."""
        builds = self.builds
        numbers = [builds.standing.building] if builds.serving is None else builds.standing[:2]
        wanted = {one.name: one for number in numbers if number for one in builds.consumers(number)}
        gone = [self._running.pop(name) for name in self._running.keys() - wanted.keys()]
        await end(*gone)
        for name in wanted.keys() - self._running.keys():
            self._running[name] = asyncio.create_task(wanted[name].run(lease), name=f"weft-{name}")

    async def _while_fed(self, goal: Coroutine[None, None, None]) -> None:
        """Reach a goal while the consumers run; raise what ends one of them."""
        reaching = asyncio.create_task(goal, name=f"weft-{self.name}")
        try:
            await asyncio.wait({reaching, *self._running.values()}, return_when=asyncio.FIRST_COMPLETED)
            for task in self._running.values():
                if task.done():
                    task.result()
            await reaching
        finally:
            await end(reaching)

    async def _complete(self, lease: Lease) -> None:
        """Return once the build in progress has caught up, and serves."""
        builds, wait = self.builds, 0.05
        model, building = builds.model.name, builds.standing.building
        consumers = builds.consumers(building)
        _log.info("building a read model", read_model=model, generation=building)
        while True:
            began = time.monotonic()
            try:
                await _caught_up(consumers)
                # What came during a long way is a short way, which is gone as well before it serves.
                if time.monotonic() - began < _SOON and await self._switched(lease):
                    _log.info("a read model is built, and serves", read_model=model, generation=building)
                    return
            except BrokerTrouble as error:
                _log.debug("a build waits for the broker", read_model=model, error=describe(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _SOON)

    async def _switched(self, lease: Lease) -> bool:
        def switch(t: Transaction) -> Standing | None:
            lease.check(t)
            return self.builds.switch(t)

        standing = await self._writer.transact(switch)
        if standing is not None:
            self.builds.learn(standing, fits=True)
        return standing is not None

    async def _rest(self, lease: Lease) -> None:
        """Remove what is left of former builds, and return when there is something new."""
        changed = self.builds.changed
        while not changed.is_set():
            leftovers = await self._reader.run(self.builds.leftovers)
            if leftovers and self._linger and await happens(changed, self._linger):
                return  # other instances may not know yet that another build serves
            try:
                await self._delete_consumers()
            except BrokerTrouble as error:
                _log.debug("former consumers wait for the broker", read_model=self.name, error=describe(error))
                await happens(changed, _SOON)
                continue
            for generation in sorted(leftovers):
                await self._remove(lease, generation)
            await changed.wait()

    async def _delete_consumers(self) -> None:
        """Delete those of former builds, which may have listened to other streams than the one that serves."""
        standing = self.builds.standing
        for stream in [one.config.name or "" for one in await self._broker.js.streams_info()]:
            try:
                found = await self._broker.js.consumers_info(stream)
            except NotFoundError:
                continue
            for name in (one.name for one in found):
                if self.builds.number_in(name) not in (0, standing.generation):
                    await self._broker.js.delete_consumer(stream, name)

    async def _remove(self, lease: Lease, generation: int) -> None:
        """Remove a build, in transactions that are short, because others wait for them."""

        def forget_events(t: Transaction) -> bool:
            lease.check(t)
            return self.builds.forget_events(t, generation)

        def forget(t: Transaction) -> None:
            lease.check(t)
            self.builds.forget(t, generation)

        while await self._writer.transact(forget_events):
            pass
        await self._writer.transact(forget)
        _log.info("a former build of a read model is removed", read_model=self.builds.model.name, generation=generation)


async def _caught_up(consumers: Sequence[Consumer]) -> None:
    for consumer in consumers:
        while not consumer.attached:  # noqa: ASYNC110 - a matter of milliseconds, once
            await asyncio.sleep(0.02)
        await consumer.caught_up()
