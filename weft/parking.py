"""Parked events of one consumer: tried again from the database, each aggregate's in order, until they are done.

Which aggregates have parked events is remembered, so that a batch need not ask. What is remembered is always
what is committed: a transaction forgets it when it begins, and knows it again once it is saved. Operators may
park events too, with another instance's help: whoever hears of it has this one look again, and it does so by
itself from time to time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from weft import letters, logs
from weft.clock import micros
from weft.database import is_lost
from weft.leases import LeaseLost
from weft.letters import Letter, describe
from weft.tasks import happens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Row

    from weft.events import Delivery
    from weft.leases import Lease
    from weft.letters import RetryPolicy
    from weft.writer import Transaction, Writer

    Try = Callable[[Transaction, Delivery], "Exception | None"]
    Judge = Callable[[Delivery, Exception, int], Letter]

_log = logs.logger("weft.parking")
_KEYS_TOGETHER = 50
_EVENTS_TOGETHER = 200
_LOOK_AGAIN = 1.0
_DOUBT_AFTER = 4.0
_ENDED = "the process ended while it was handled"


class Parking:
    """The parked events of one consumer, by key: the id of their aggregate."""

    def __init__(self, consumer: str, writer: Writer, policy: RetryPolicy, *, attempt: Try, judge: Judge) -> None:
        """`attempt` handles an event and returns its error; `judge` makes a letter of the error of its nth try."""
        self._consumer = consumer
        self._writer = writer
        self._policy = policy
        self._attempt = attempt
        self._judge = judge
        # When the first event of each key is due; None: not known for certain.
        self._due: dict[str, int] | None = None
        # Somebody else may have changed it since: set by any thread, cleared before it is read anew.
        self._doubted = False
        self._changed = asyncio.Event()
        # Keys whose events may have ended the process in its last life.
        self._suspect: set[str] = set()

    def begin(self, t: Transaction, *, after_death: bool) -> None:
        """Look what there is. `after_death`: the last holder of the lease did not end in order."""
        due = letters.heads(t, self._consumer)
        self._suspect = set(due) if after_death else set()
        self.know(t, due)

    def heads(self, t: Transaction) -> dict[str, int]:
        """Return when the first event of each key is due (microseconds), until `know` is told anew in `t`."""
        due, self._due = self._due, None
        if due is None or self._doubted:
            self._doubted = False
            due = letters.heads(t, self._consumer)
        return due

    def doubt(self) -> None:
        """Say, from any thread, that what is remembered may not be so any more."""
        self._doubted = True
        self._writer.soon(self._changed.set)

    def know(self, t: Transaction, due: dict[str, int]) -> None:
        """Remember what there is once `t` is committed."""

        def remember() -> None:
            self._due = due
            if due:
                self._writer.soon(self._changed.set)

        t.then.append(remember)

    async def retry(self, lease: Lease) -> None:
        """Try again what is due until cancelled, or until the lease is lost (`LeaseLost`)."""
        looked = time.monotonic()
        while True:
            self._changed.clear()
            due = self._due
            if due is None or self._doubted or time.monotonic() - looked > _DOUBT_AFTER:
                self._doubted = True
                due = await self._look()
                looked = time.monotonic()
            now = micros(self._writer.clock.now())
            ready = (key for key, at in due.items() if self._policy.has_come(at, now))
            keys = sorted(ready, key=due.__getitem__)[:_KEYS_TOGETHER]
            for key in self._suspect.intersection(keys):
                await self._retry_suspect(lease, key)
                keys.remove(key)
            if keys:
                await self._retry(lease, keys)
            wait = min((at - now for at in (self._due or due).values()), default=1_000_000) / 1_000_000
            if wait > 0:
                await happens(self._changed, min(wait, _LOOK_AGAIN))

    async def _look(self) -> dict[str, int]:
        def look(t: Transaction) -> dict[str, int]:
            due = self.heads(t)
            self.know(t, due)
            return due

        try:
            return await self._writer.transact(look)
        except Exception as error:
            if not is_lost(error):
                raise
            return {}

    async def _retry_suspect(self, lease: Lease, key: str) -> None:
        """Try one event alone, and count the try before: if it ends the process, that was not for nothing."""
        try:
            if await self._writer.transact(partial(self._count_try, lease=lease, key=key)):
                await self._retry(lease, [key], 1, counted=True)
        except Exception as error:
            if not is_lost(error):
                raise
            await self._wait_for_database(error)
        if key not in (self._due or ()):
            self._suspect.discard(key)

    def _count_try(self, t: Transaction, lease: Lease, key: str) -> bool:
        """Count a try of the first event of a key; false if there is none, or if it had enough: it is dead now."""
        lease.check(t)
        due = dict(self.heads(t))
        row = letters.first_parked(t, self._consumer, key)
        goes_on = row is not None and row.attempts < self._policy.attempts
        if row is None:
            due.pop(key, None)
        elif goes_on:
            due[key] = letters.postpone(t, row, row.attempts + 1, _ENDED, self._policy)
        else:
            self._bury(t, row, Letter(letters.delivery_of(row), _ENDED, row.attempts, letters.CRASHED))
            due = letters.heads(t, self._consumer)
        self.know(t, due)
        return goes_on

    async def _retry(
        self,
        lease: Lease,
        keys: Sequence[str],
        most: int = _EVENTS_TOGETHER,
        *,
        counted: bool = False,
        failure: Exception | None = None,
    ) -> None:
        """Try keys together; if what they did cannot be saved, one by one: each event fails by its own fault."""
        body = partial(self._try_again, lease=lease, keys=keys, most=most, counted=counted, failure=failure)
        try:
            await self._writer.transact(body)
        except LeaseLost:
            raise
        except Exception as error:
            if is_lost(error) or failure is not None:
                await self._wait_for_database(error)
            elif len(keys) == 1 and most == 1:
                await self._retry(lease, keys, 1, counted=counted, failure=error)
            else:
                for key in keys:
                    await self._retry_one_by_one(lease, key)

    async def _retry_one_by_one(self, lease: Lease, key: str) -> None:
        """Try events of a key alone, until one fails."""
        for _ in range(_EVENTS_TOGETHER):
            await self._retry(lease, [key], 1)
            next_at = (self._due or {}).get(key)
            if next_at is None or next_at > micros(self._writer.clock.now()):
                return

    async def _wait_for_database(self, error: Exception) -> None:
        _log.warning("parked events wait for the database", consumer=self._consumer, error=describe(error))
        await asyncio.sleep(_LOOK_AGAIN)

    def _try_again(
        self,
        t: Transaction,
        lease: Lease,
        keys: Sequence[str],
        most: int,
        counted: bool,
        failure: Exception | None,
    ) -> None:
        """Handle at most so many events. `failure` is what saving the only one raised before."""
        lease.check(t)
        due = dict(self.heads(t))
        for key in keys:
            while most > 0 and (row := letters.first_parked(t, self._consumer, key)) is not None:
                most -= 1
                next_at = self._try(t, row, row.attempts + (not counted), failure)
                if next_at is not None:
                    due[key] = next_at
                    break
                due[key] = micros(t.now)
            else:
                if most > 0:
                    due.pop(key, None)
        self.know(t, due)

    def _try(self, t: Transaction, row: Row[Any], attempts: int, failure: Exception | None) -> int | None:
        """Handle one event; return when to try it again, None if it is done or dead."""
        delivery = letters.delivery_of(row)
        error = failure or self._attempt(t, delivery)
        if error is None:
            letters.unpark(t, row)
            return None
        letter = self._judge(delivery, error, attempts)
        if not letter.reason:
            return letters.postpone(t, row, attempts, letter.error, self._policy)
        self._bury(t, row, letter)
        return None

    def _bury(self, t: Transaction, row: Row[Any], letter: Letter) -> None:
        letters.unpark(t, row)
        letters.bury(t, self._consumer, [replace(letter, first_at=row.first_at)])
