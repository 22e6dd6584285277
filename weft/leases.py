"""Leases: of several instances of a service, one at a time reads a stream, relays, or acts on intents.

A lease is a row in the service's database. Its epoch grows with each holder and is checked in every
transaction of the holder, which locks the row: a holder that was paused cannot write after another took over.
No clock of the time of day takes part: a challenger takes over when a holder has been silent for some time by
the challenger's own monotonic clock.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from weft import logs, tables
from weft.database import is_lost
from weft.tasks import end, happens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sqlalchemy import Row

    from weft.writer import Transaction, Writer

_log = logs.logger("weft.leases")
_leases = tables.leases


class LeaseLost(Exception):
    """Another instance holds the lease now; nothing was written."""


class Lease:
    """One held lease."""

    def __init__(self, name: str, holder: str, epoch: int, *, orphaned: bool = False) -> None:
        self.name = name
        self.holder = holder
        self.epoch = epoch
        self.orphaned = orphaned
        """Whether the one before did not give it back: perhaps it died of what it did."""

    def check(self, transaction: Transaction) -> None:
        """Prove in `transaction` that the lease is still held, and renew it. Raises `LeaseLost`."""
        statement = "UPDATE leases SET beat = beat + 1 WHERE name = ? AND epoch = ?"
        if transaction.sql.execute(transaction.connection, statement, (self.name, self.epoch)) != 1:
            raise LeaseLost(f"the lease {self.name} is another instance's")


class Leases:
    """Takes and keeps the leases that one instance wants, and runs what each is for while it is held."""

    def __init__(self, writer: Writer, holder: str, *, alone: bool, patience: float) -> None:
        """`alone`: no other instance can use this database. `patience`: seconds of silence before a takeover."""
        self._writer = writer
        self._holder = holder
        self._alone = alone
        self._patience = patience
        self._bodies: dict[str, Callable[[Lease], Awaitable[None]]] = {}
        self._held: dict[str, Lease] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.settled = False
        """Whether it has tried to take each lease at least once."""
        self._seen: dict[str, tuple[tuple[str, int, int], float]] = {}
        self._woken = asyncio.Event()

    def add(self, name: str, body: Callable[[Lease], Awaitable[None]]) -> None:
        """Run `body` with the lease `name` whenever it is held. It is cancelled when the lease is lost."""
        self._bodies[name] = body

    def wake(self) -> None:
        """Say that leases may have been given back."""
        self._woken.set()

    def holds(self, name: str) -> bool:
        """Whether this instance holds the lease, as far as it knows."""
        return name in self._held

    async def run(self) -> None:
        """Take, renew and give up leases until cancelled; then release them all."""
        try:
            while True:
                self._woken.clear()
                await self._round()
                await happens(self._woken, self._patience / 3)
        finally:
            await self._release()

    async def _round(self) -> None:
        for name, task in list(self._running.items()):
            if task.done():
                self._ended(name, task)
        if self._alone and self._held.keys() == self._bodies.keys():
            return
        try:
            held = await self._writer.transact(self._take)
        except Exception as error:
            if not is_lost(error):
                raise
            _log.warning("leases wait for the database", error=str(error))
            return
        for name, lease in held.items():
            known = self._held.get(name)
            if known is not None and known.epoch == lease.epoch:
                continue
            await self._stop(name)
            _log.debug("lease taken", lease=name, epoch=lease.epoch)
            self._held[name] = lease
            self._running[name] = asyncio.create_task(self._bodies[name](lease), name=f"weft-{name}")  # type: ignore[arg-type]
        self.settled = True
        for name in set(self._held) - set(held):
            _log.warning("lease lost", lease=name)
            await self._stop(name)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._running.pop(name)
        self._held.pop(name, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            _log.warning("lease lost", lease=name)
        elif error is not None and is_lost(error):
            _log.warning("waits for the database", lease=name, error=str(error))
        elif error is not None:
            _log.error("stopped by an error; it starts again", lease=name, exc_info=error)

    async def _stop(self, name: str) -> None:
        self._held.pop(name, None)
        task = self._running.pop(name, None)
        if task is not None:
            await end(task)

    async def _release(self) -> None:
        for name in list(self._running):
            await self._stop(name)
        try:
            await self._writer.transact(self._give_back)
        except Exception as error:
            _log.debug("leases were not released", error=str(error))

    def _take(self, transaction: Transaction) -> dict[str, Lease]:
        rows = self._rows(transaction)
        if missing := self._bodies.keys() - rows.keys():
            free = [{"name": name, "holder": "", "epoch": 0, "beat": 0} for name in sorted(missing)]
            transaction.sql.insert_new(transaction.connection, _leases, free, "name")
            rows = self._rows(transaction)
        held: dict[str, Lease] = {}
        wanted: dict[str, Lease] = {}
        for name, row in rows.items():
            mine = self._held.get(name)
            if mine is not None and mine.epoch == row.epoch:
                held[name] = wanted[name] = mine
            elif self._may_take(name, (row.holder, row.epoch, row.beat)):
                wanted[name] = Lease(name, self._holder, row.epoch + 1, orphaned=row.holder != "")
        if self._alone:  # nobody watches for a sign of life
            wanted = {name: lease for name, lease in wanted.items() if name not in held}
        for name in self._free_to_change(transaction, wanted):
            lease, row = wanted[name], rows[name]
            change = {"holder": self._holder, "epoch": lease.epoch, "beat": row.beat + 1}
            unchanged = (_leases.c.name == name) & (_leases.c.epoch == row.epoch)
            if transaction.connection.execute(_leases.update().where(unchanged).values(change)).rowcount:
                held[name] = lease
            else:
                held.pop(name, None)
        return held

    def _rows(self, transaction: Transaction) -> dict[str, Row[Any]]:
        query = _leases.select().where(_leases.c.name.in_(list(self._bodies))).order_by(_leases.c.name)
        return {row.name: row for row in transaction.connection.execute(query)}

    def _free_to_change(self, transaction: Transaction, wanted: Iterable[str]) -> list[str]:
        """Lock leases, without waiting for one whose holder is in the midst of a transaction."""
        query = select(_leases.c.name).where(_leases.c.name.in_(list(wanted))).order_by(_leases.c.name)
        return list(transaction.connection.execute(query.with_for_update(skip_locked=True)).scalars())

    def _may_take(self, name: str, state: tuple[str, int, int]) -> bool:
        if self._alone or state[0] in ("", self._holder):
            return True  # free, or held by an earlier life of this very instance
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != state:
            self._seen[name] = (state, now)
            return False
        return now - since >= self._patience

    def _give_back(self, transaction: Transaction) -> None:
        mine = (_leases.c.holder == self._holder) & _leases.c.name.in_(list(self._bodies))
        transaction.connection.execute(_leases.update().where(mine).values(holder=""))
