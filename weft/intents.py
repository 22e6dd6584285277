"""Intents: promises to act, committed as rows with the change that calls for them.

An intent is due at once (a call to the outside) or later (a timer). Its call runs on the event loop, outside
any transaction, with an idempotency key that never changes; its outcome is settled in a unit of work that
removes the row. A call whose outcome is unknown raises, and is made again, with the same key, until it is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row, select, tuple_

from weft import crash_points, logs, tables
from weft.clock import micros
from weft.database import is_lost
from weft.leases import LeaseLost
from weft.letters import RetryPolicy, describe
from weft.pull import BrokerTrouble
from weft.tasks import end, happens
from weft.tracing import TraceContext
from weft.work import Failed, Load, Origin, Unit, UnitOfWork

if TYPE_CHECKING:
    from weft.leases import Lease
    from weft.writer import Reader, Transaction, Writer

_log = logs.logger("weft.intents")
_intents = tables.intents
_SWEEP = 1.0
_SETTLED_TOGETHER = 200
_TRIES = 3

Payload = Mapping[str, Any]
Place = tuple[str, str]
"""Kind and key of an intent."""


def _no_loads(_key: str) -> Iterable[Load]:
    return ()


@dataclass(frozen=True, slots=True)
class Intent:
    """A kind of call to the outside.

    `call(idempotency_key, payload)` returns the outcome, or raises if it is not known; after `timeout` seconds
    without an answer it is not. `settle(work, key, payload, outcome)` records it. `loads(key)` names what settling
    will touch.
    """

    kind: str
    call: Callable[[str, Payload], Awaitable[Any]]
    settle: Callable[[UnitOfWork, str, Payload, Any], None]
    loads: Callable[[str], Iterable[Load]] = _no_loads
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Timer:
    """A kind of promise that needs no call: `fire(work, key, payload)` runs when it is due.

    With `after_streams` an outage is never mistaken for somebody's silence: the time counts only while the service
    is in touch with the broker, without a break, and then it waits until the service has handled everything that
    its streams held when the timer came due.

    A `standing` one is promised anew whenever it fires, as what keeps house does: it is always there, so it is no
    work left to do, and nobody counts it as such.
    """

    kind: str
    fire: Callable[[UnitOfWork, str, Payload], None]
    loads: Callable[[str], Iterable[Load]] = _no_loads
    after_streams: bool = False
    standing: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    row: Row[Any]
    value: Any = None
    error: Exception | None = None
    later: int = 0
    """Microseconds until it is due again, for a timer that does not count yet."""


class Intents:
    """Acts on the open intents of one service while it holds the lease."""

    def __init__(
        self,
        kinds: Sequence[Intent | Timer],
        writer: Writer,
        reader: Reader,
        *,
        resumed: Callable[[TraceContext], Any],
        caught_up: Callable[[], Awaitable[None]],
        in_touch: Callable[[], int],
        at_once: int,
        policy: RetryPolicy,
    ) -> None:
        """`resumed` makes a trace context current; `caught_up` returns when all streams are handled; `in_touch`
        tells for how many microseconds the broker has been there without a break."""
        self._kinds = {kind.kind: kind for kind in kinds}
        self._writer = writer
        self._reader = reader
        self._resumed = resumed
        self._caught_up = caught_up
        self._in_touch = in_touch
        self._at_once = at_once
        self._policy = policy
        self._woken = asyncio.Event()
        self._calls = [kind.kind for kind in kinds if isinstance(kind, Intent)]
        self._calling: dict[Place, asyncio.Task[None]] = {}
        self._timers = [kind.kind for kind in kinds if isinstance(kind, Timer)]
        self._firing: dict[Place, asyncio.Task[None]] = {}
        self._outcomes: list[_Outcome] = []
        self._settled = asyncio.Event()

    def wake(self) -> None:
        """Say that an intent was committed."""
        self._woken.set()

    async def run(self, lease: Lease) -> None:
        """Act until cancelled, or until the lease is lost (`weft.leases.LeaseLost`)."""
        settling = asyncio.create_task(self._settle_outcomes(lease), name="weft-intents-settling")
        try:
            while True:
                self._woken.clear()
                try:
                    wait = await self._begin_due()
                except Exception as error:
                    if not is_lost(error):
                        raise
                    _log.warning("intents wait for the database", error=describe(error))
                    wait = _SWEEP
                await happens(self._woken, wait)
                if settling.done():
                    settling.result()
        finally:
            await end(settling, *self._calling.values(), *self._firing.values())
            self._calling.clear()
            self._firing.clear()
            self._outcomes.clear()

    async def _begin_due(self) -> float:
        """Begin what is due and not running; return seconds until there may be more to do."""
        calls, wait = await self._look(self._calls, self._calling, self._at_once - len(self._calling))
        for row in calls:
            self._begin(self._calling, [row], self._act(row))
        timers, wait_too = await self._look(self._timers, self._firing, _SETTLED_TOGETHER)
        for patient in (False, True):
            # Apart, so that those that wait for the streams hold up no others.
            if together := [row for row in timers if self._waits(row) is patient]:
                self._begin(self._firing, together, self._fire(together))
        return min(wait, wait_too)

    async def _look(
        self, kinds: Sequence[str], running: Mapping[Place, object], most: int
    ) -> tuple[Sequence[Row[Any]], float]:
        """Return at most so many that are due and not running, and seconds until there may be more."""
        if not kinds or most <= 0:
            return (), _SWEEP
        rows = await self._reader.run(_next, kinds, most + len(running))
        now = micros(self._writer.clock.now())
        due = [row for row in rows if self._has_come(row, now) and (row.kind, row.key) not in running]
        later = [(row.due_at - now) / 1_000_000 for row in rows if row.due_at > now]
        return due[:most], min([_SWEEP, *later])

    def _has_come(self, row: Row[Any], now: int) -> bool:
        """Tell whether a promise is due; a call need not wait for a time that a wrong clock set."""
        at_once = row.kind in self._calls and not row.delay
        return row.due_at <= now or (at_once and self._policy.has_come(row.due_at, now))

    def _begin(self, running: dict[Place, asyncio.Task[None]], rows: Sequence[Row[Any]], body: Any) -> None:
        task = asyncio.create_task(body)
        for row in rows:
            running[row.kind, row.key] = task

    async def _act(self, row: Row[Any]) -> None:
        intent = self._kinds[row.kind]
        assert isinstance(intent, Intent)
        try:
            with self._resumed(TraceContext(row.traceparent, row.tracestate)), _about(row):
                async with asyncio.timeout(intent.timeout):
                    crash_points.reach("before", "call", row.kind)
                    value = await intent.call(f"{row.kind}-{row.key}", orjson.loads(row.payload))
                    crash_points.reach("after", "call", row.kind)
        except Exception as error:
            self._outcome(_Outcome(row, error=error))
        else:
            self._outcome(_Outcome(row, value))

    async def _fire(self, rows: Sequence[Row[Any]]) -> None:
        away = False
        try:
            if any(self._waits(row) for row in rows):
                await self._caught_up()
        except BrokerTrouble as error:
            _log.debug("timers wait for the broker", error=describe(error))
            away = True
        except Exception as error:
            _log.warning("timers wait for what was handled to be known", error=describe(error))
            away = True
        in_touch = 0 if away else self._in_touch()
        for row in rows:
            later = max(0, row.delay - in_touch) if self._waits(row) else 0
            self._outcome(_Outcome(row, later=max(later, 1_000_000) if away else later))

    def _waits(self, row: Row[Any]) -> bool:
        kind = self._kinds[row.kind]
        return isinstance(kind, Timer) and kind.after_streams

    def _outcome(self, outcome: _Outcome) -> None:
        self._outcomes.append(outcome)
        self._settled.set()

    async def _settle_outcomes(self, lease: Lease) -> None:
        wait = 0.1
        while True:
            await self._settled.wait()
            together = self._outcomes[:_SETTLED_TOGETHER]
            try:
                await self._settle(lease, together)
            except LeaseLost:
                self._woken.set()
                raise
            except Exception as error:
                if not is_lost(error):
                    raise
                _log.warning("outcomes wait for the database", error=describe(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, 5.0)
                continue
            wait = 0.1
            del self._outcomes[: len(together)]
            for one in together:
                self._calling.pop((one.row.kind, one.row.key), None)
                self._firing.pop((one.row.kind, one.row.key), None)
            if not self._outcomes:
                self._settled.clear()
            self._woken.set()

    async def _settle(self, lease: Lease, outcomes: Sequence[_Outcome], tries: int = 1) -> None:
        try:
            await self._writer.transact(lambda t: self._record(t, lease, outcomes))
        except LeaseLost:
            raise
        except Exception as error:
            if is_lost(error):
                raise
            if len(outcomes) > 1:
                for outcome in outcomes:
                    await self._settle(lease, [outcome])
            elif tries < _TRIES:  # somebody else may have changed what it changes
                await self._settle(lease, outcomes, tries + 1)
            else:
                failed = _Outcome(outcomes[0].row, error=error)
                await self._writer.transact(lambda t: self._record(t, lease, [failed]))

    def _record(self, t: Transaction, lease: Lease, outcomes: Sequence[_Outcome]) -> None:
        """Settle what is still open; what fails, or is not known yet, is due again later."""
        lease.check(t)
        open_ones = self._still_open(t, outcomes)
        for one in open_ones:
            if one.later:
                self._delay(t, one.row, {"due_at": micros(t.now) + one.later})
        open_ones = [one for one in open_ones if not one.later]
        known = [one for one in open_ones if one.error is None]
        results = t.run([self._unit(one) for one in known])
        done: list[Place] = []
        for one, result in zip(known, results, strict=True):
            if isinstance(result, Failed):
                self._postpone(t, one.row, result.error)
            else:
                done.append((one.row.kind, one.row.key))
        for one in open_ones:
            if one.error is not None:
                self._postpone(t, one.row, one.error)
        if done:
            # Before the flush, which may promise the same kind and key anew.
            t.sql.delete(t.connection, _intents, done)

    def _still_open(self, t: Transaction, outcomes: Sequence[_Outcome]) -> list[_Outcome]:
        """Leave out intents that were withdrawn, and timers that wait for a parked event of their aggregate."""
        places = [(one.row.kind, one.row.key) for one in outcomes]
        columns = (_intents.c.kind, _intents.c.key, _intents.c.created_at)
        query = select(*columns).where(tuple_(*columns[:2]).in_(places))
        promises = {tuple(row) for row in t.connection.execute(query)}
        # One that was withdrawn and made anew is another promise.
        open_ones = [one for one in outcomes if (one.row.kind, one.row.key, one.row.created_at) in promises]
        keys = [one.row.key for one in open_ones if self._waits(one.row)]
        if not keys:
            return open_ones
        parked_query = select(tables.parked.c.key).where(tables.parked.c.key.in_(keys))
        parked = set(t.connection.execute(parked_query).scalars())
        for one in open_ones:
            if one.row.key in parked and self._waits(one.row):
                self._delay(t, one.row, {"due_at": micros(t.now) + 1_000_000})
        return [one for one in open_ones if not (one.row.key in parked and self._waits(one.row))]

    def _unit(self, outcome: _Outcome) -> Unit[None]:
        row = outcome.row
        kind = self._kinds[row.kind]
        payload = orjson.loads(row.payload)
        origin = Origin(TraceContext(row.traceparent, row.tracestate), row.correlation_id, row.causation_id)
        loads = tuple(kind.loads(row.key))

        def run(work: UnitOfWork) -> None:
            with _about(row):
                if isinstance(kind, Timer):
                    kind.fire(work, row.key, payload)
                else:
                    kind.settle(work, row.key, payload, outcome.value)

        return Unit(run, origin, loads)

    def _postpone(self, t: Transaction, row: Row[Any], error: Exception) -> None:
        attempts = row.attempts + 1
        with _about(row):
            _log.warning("intent will be tried again", attempts=attempts, error=describe(error))
        due_at = micros(t.now) + self._policy.delay(attempts)
        self._delay(t, row, {"due_at": due_at, "attempts": attempts, "error": describe(error)})

    def _delay(self, t: Transaction, row: Row[Any], change: dict[str, Any]) -> None:
        here = (_intents.c.kind == row.kind) & (_intents.c.key == row.key)
        t.connection.execute(_intents.update().where(here).values(change))


def _about(row: Row[Any]) -> logs.Bound:
    """Put what an intent goes back to on the lines within."""
    return logs.bound(kind=row.kind, key=row.key, **TraceContext(row.traceparent).ids)


def _next(connection: Connection, kinds: Sequence[str], limit: int) -> Sequence[Row[Any]]:
    query = _intents.select().where(_intents.c.due_at.is_not(None), _intents.c.kind.in_(kinds))
    return connection.execute(query.order_by(_intents.c.due_at).limit(limit)).all()
