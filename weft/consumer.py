"""Consumers: they read one stream in order and run its events through handlers, a batch per transaction.

Of each batch the inbox says which events are new; aggregates are loaded with one query a store, handlers run
in order, everything is written in bulk with the new position, and only after the commit is the broker told.
A handler that raises costs its own event only, and parks the later ones of the same aggregate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message
from sqlalchemy import select

from weft import letters, logs, tables
from weft.database import is_lost
from weft.domain import Unavailable, WeftError
from weft.events import Delivery, Malformed, context_of, stream_of, subject_of
from weft.leases import LeaseLost
from weft.letters import Letter, RetryPolicy, describe
from weft.parking import Parking
from weft.pull import BrokerTrouble, Doubtful, Pull
from weft.tasks import end
from weft.work import Done, Load, Origin, Unit, UnitOfWork, attempt

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from weft.broker import Broker
    from weft.leases import Lease
    from weft.writer import Reader, Transaction, Writer

Handler = Callable[[UnitOfWork, Any], None]
H = TypeVar("H", bound=Handler)

_log = logs.logger("weft.consumer")
_progress = tables.progress
_CAUTIOUS_AFTER = 2
_TRIES_ALONE = 3
_CONFLICTS = 3
_LOOK_AGAIN = 0.05
_PROMPT = 1.0


class Subscribed(Protocol):
    """What a consumer knows of one event type that it reads: its class, its full name, and what to do with it."""

    @property
    def event(self) -> type[Message]: ...
    @property
    def type(self) -> str: ...
    def loads(self, event: Message) -> Iterable[Load]: ...
    def handle(self, work: UnitOfWork, event: Message, delivery: Delivery) -> None: ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """One event type and the function that handles it: `handler(work, event)`."""

    event: type[Message]
    handler: Handler

    @property
    def type(self) -> str:
        """The full name of the event's type."""
        return self.event.DESCRIPTOR.full_name

    def loads(self, event: Message) -> Iterable[Load]:
        """Return what handling `event` will touch."""
        named: Callable[[Message], Iterable[Load]] = getattr(self.handler, "loads", _nothing)
        return named(event)

    def handle(self, work: UnitOfWork, event: Message, delivery: Delivery) -> None:
        """Handle `event`, which came as `delivery`."""
        self.handler(work, event)


def loads(named: Callable[[Any], Iterable[Load]]) -> Callable[[H], H]:
    """Say what a handler will touch, so that a batch loads it with one query a store.

    `named` returns stores and keys for an event. What it does not name is loaded when it is asked for.
    """

    def mark(handler: H) -> H:
        handler.loads = named  # type: ignore[attr-defined]
        return handler

    return mark


def _nothing(_: Message) -> Iterable[Load]:
    return ()


class Consumer:
    """One service's reader of one context's stream."""

    def __init__(
        self,
        service: str,
        subscriptions: Sequence[Subscribed],
        *,
        broker: Broker,
        writer: Writer,
        reader: Reader,
        batch_size: int,
        policy: RetryPolicy,
        patience: float = 5.0,
    ) -> None:
        """All `subscriptions` are of one context. `patience`: seconds of silence before a lease is another's."""
        self.context = context_of(subscriptions[0].type)
        self.stream = stream_of(self.context)
        self.name = f"{service}-from-{self.context.rpartition('.')[2]}"
        self.subscriptions = {one.type: one for one in subscriptions}
        self._broker = broker
        self._writer = writer
        self._reader = reader
        self._batch_size = batch_size
        self._policy = policy
        self._pull = Pull(broker, self.stream, self.name, window=2 * batch_size, patience=patience)
        self._parking = Parking(self.name, writer, policy, attempt=self._attempt, judge=self._judge)
        self._position = 0
        self._cautious_until = 0
        self.attached = False
        """Whether it has been reading at least once."""
        broker.on_reconnect(lambda: self._pull.doubt("reconnected"))

    @property
    def filters(self) -> list[str]:
        """The subjects that it reads."""
        return [subject_of(type_name, "*") for type_name in self.subscriptions]

    async def run(self, lease: Lease) -> None:
        """Read and handle until cancelled, or until the lease is lost (`LeaseLost`)."""
        await self._attach(lease)
        retries = asyncio.create_task(self._parking.retry(lease), name=f"weft-{self.name}-retries")
        retries.add_done_callback(lambda _: self._pull.doubt("nothing is retried any more"))
        try:
            while not retries.done():
                try:
                    await self._handle_next(lease)
                except (Doubtful, *BrokerTrouble) as doubt:
                    if not retries.done():
                        await self._attach(lease, str(doubt))
            retries.result()
        finally:
            await end(retries)
            await self._pull.stop()

    async def caught_up(self) -> None:
        """Return once everything is handled that the stream holds now for this consumer.

        Raises one of `BrokerTrouble` if the broker cannot tell, promptly, what that is.
        """
        last = await self.last_seq()
        # Asked of the database: another instance may be the one that reads.
        while await self._reader.run(self._committed_position) < last:  # noqa: ASYNC110 - rare, and another's doing
            await asyncio.sleep(_LOOK_AGAIN)

    async def last_seq(self) -> int:
        """Return the number of the last message that the stream holds now for this consumer; 0 for none.

        Raises one of `BrokerTrouble` if the broker cannot tell, promptly.
        """
        async with asyncio.timeout(_PROMPT):
            return max(await asyncio.gather(*(self._broker.last_seq(self.stream, one) for one in self.filters)))

    def park_missing(self, t: Transaction, missing: Sequence[Delivery]) -> list[Delivery]:
        """Have those events handled, now, that the inbox does not know, and return them; tell `look_again` then."""
        mine = self._new(t, missing)
        letters.park(t, self.name, [Letter(one, "delivered again") for one in mine], self._policy)
        return mine

    def look_again(self) -> None:
        """Say, from any thread, that somebody else parked events of this consumer, or made them due."""
        self._parking.doubt()

    def _committed_position(self, connection: Connection) -> int:
        query = select(_progress.c.position).where(_progress.c.consumer == self.name)
        return connection.execute(query).scalar() or 0

    async def _lost_its_place(self) -> bool:
        """Tell whether the stream has another event, or none, where the last one was that is handled."""
        position, event_id = await self._reader.run(self._committed_place)
        if not event_id:
            return False
        found = await self._broker.message_at(self.stream, position)
        return found is None or found.event_id != event_id

    def _committed_place(self, connection: Connection) -> tuple[int, str]:
        query = select(_progress.c.position, _progress.c.event_id).where(_progress.c.consumer == self.name)
        row = connection.execute(query).one_or_none()
        return (row.position, row.event_id) if row else (0, "")

    async def _attach(self, lease: Lease, why: str = "") -> None:
        """Make the consumer on the broker, find the position in its stream, and begin to read there."""
        if why:
            _log.debug("reading again from the position", consumer=self.name, position=self._position, why=why)
        complained, wait = False, 0.05
        while True:
            try:
                await self._broker.ensure_stream(self.context)
                await self._broker.ensure_consumer(self.stream, self.name, self.filters, 2 * self._batch_size)
                delivered = await self._broker.delivered_seq(self.stream, self.name)
                made, last = await self._broker.stream_state(self.stream)
                lost = await self._lost_its_place()
                begin = partial(self._begin, lease=lease, delivered=delivered, made=made, last=last, lost=lost)
                await self._writer.transact(begin)
                self.attached = True  # before reading: whatever comes after is no new life of the process
                await self._pull.start(self._position)
                return
            except BrokerTrouble as error:
                if not complained:
                    _log.warning("waiting for the broker", consumer=self.name, error=describe(error))
                    complained = True
                await asyncio.sleep(wait)
                wait = min(wait * 2, 1.0)

    def _begin(self, t: Transaction, lease: Lease, delivered: int, made: int, last: int, lost: bool) -> None:
        lease.check(t)
        here = _progress.c.consumer == self.name
        row = t.connection.execute(_progress.select().where(here)).one_or_none()
        if row is None:
            first = {"position": 0, "event_id": "", "stream_made": made, "interrupted": 0, "trying": 0, "tries": 0}
            t.connection.execute(_progress.insert().values(consumer=self.name, **first))
            row = t.connection.execute(_progress.select().where(here)).one()
        position, event_id = row.position, row.event_id
        if row.stream_made != made or position > last or lost:
            # The stream was made anew, or lost its tail: the inbox knows what of it was handled.
            _log.error("the stream is not the one that was read; reading it from the start", consumer=self.name)
            position, event_id = 0, ""
            # What it holds now has numbers that letters have already.
            letters.outlive_stream(t, self.name)
        interrupted = row.interrupted
        if not self.attached:
            self._parking.begin(t, after_death=lease.orphaned)
            interrupted = interrupted + 1 if delivered > position else 0
        change = {"position": position, "event_id": event_id, "stream_made": made, "interrupted": interrupted}
        t.connection.execute(_progress.update().where(here).values(change))
        self._position = position
        self._cautious_until = delivered if interrupted > _CAUTIOUS_AFTER else 0

    async def _handle_next(self, lease: Lease) -> None:
        cautious = self._position < self._cautious_until
        deliveries = await self._pull.take(1 if cautious else self._batch_size)
        if not cautious or await self._writer.transact(lambda t: self._begin_alone(t, lease, deliveries[0])):
            await self._handle(lease, deliveries)
        self._position = deliveries[-1].seq
        await self._pull.acknowledge(self._position)

    async def _handle(self, lease: Lease, deliveries: Sequence[Delivery]) -> None:
        """Handle a batch, however long the database takes to be there; one by one if it cannot be saved together."""
        wait = 0.1
        failures = 0
        failure: Exception | None = None
        while True:
            try:
                await self._writer.transact(partial(self._apply, lease=lease, deliveries=deliveries, failure=failure))
                return
            except LeaseLost:
                raise
            except Exception as error:
                if is_lost(error) or failure is not None:
                    _log.warning("events wait for the database", consumer=self.name, error=describe(error))
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, 5.0)
                    continue
                if len(deliveries) == 1:
                    failures += 1
                    failure = error if failures >= _CONFLICTS else None
                    continue
            for delivery in deliveries:
                await self._handle(lease, [delivery])
            return

    def _apply(self, t: Transaction, lease: Lease, deliveries: Sequence[Delivery], failure: Exception | None) -> None:
        """Handle a batch in a transaction. `failure` is what saving its only event raised before."""
        lease.check(t)
        parked = self._parking.heads(t)
        waiting: list[Letter] = []
        dead: list[Letter] = []
        units: list[tuple[Delivery, Unit[None]]] = []
        for delivery in self._new(t, deliveries):
            try:
                units.append((delivery, self._unit(delivery)))
            except Malformed as malformed:
                dead.append(self._judge(delivery, malformed, 0))
        if failure is None:
            t.work.load(load for _, unit in units for load in unit.loads)
        blocked = set(parked)
        for delivery, unit in units:
            if delivery.key in blocked:
                waiting.append(Letter(delivery, "waits for an earlier event of its aggregate"))
                continue
            error = failure or _error_of(t.work, unit)
            if error is not None:
                letter = self._judge(delivery, error, 1)
                (dead if letter.reason else waiting).append(letter)
                if not letter.reason:
                    blocked.add(delivery.key)
        letters.bury(t, self.name, dead)
        due = letters.park(t, self.name, waiting, self._policy)
        self._parking.know(t, {**due, **parked} if due else parked)
        self._advance(t, deliveries[-1])

    def _new(self, t: Transaction, deliveries: Sequence[Delivery]) -> list[Delivery]:
        rows = [{"consumer": self.name, "event_id": one.event_id} for one in deliveries]
        new = t.sql.insert_new(t.connection, tables.inbox, rows, "event_id")
        fresh = []
        for delivery in deliveries:
            if delivery.event_id in new:
                new.discard(delivery.event_id)  # once, though the batch may hold it twice
                fresh.append(delivery)
        return fresh

    def _unit(self, delivery: Delivery) -> Unit[None]:
        """Return the work that an event asks for. Raises `Malformed`."""
        delivery.check()
        subscription = self.subscriptions.get(delivery.type)
        if subscription is None:
            raise UnknownType(f"{self.name} does not handle {delivery.type}")
        try:
            event = subscription.event.FromString(delivery.body)
        except DecodeError as error:
            raise Malformed(f"the body is no {delivery.type}: {error}") from error
        try:
            loads = tuple(subscription.loads(event))
        except Exception:
            loads = ()  # the handler, which needs the same, tells why
        origin = delivery.origin
        ids = logs.BoundLater(partial(_ids_of, delivery, event, origin))

        def run(work: UnitOfWork) -> None:
            with ids:
                subscription.handle(work, event, delivery)

        return Unit(run, origin, loads)

    def _attempt(self, t: Transaction, delivery: Delivery) -> Exception | None:
        """Handle one event, and return its error."""
        try:
            return _error_of(t.work, self._unit(delivery))
        except Malformed as malformed:
            return malformed

    def _judge(self, delivery: Delivery, error: Exception, attempts: int) -> Letter:
        """Return a letter for an event that failed so often: without a reason it is to be tried again."""
        reason = ""
        if isinstance(error, Malformed):
            return Letter(delivery, str(error), attempts, _reason(error))
        if isinstance(error, WeftError) and not isinstance(error, Unavailable):
            reason = letters.REFUSED
        elif attempts >= self._policy.attempts:
            reason = letters.EXHAUSTED
        return Letter(delivery, describe(error), attempts, reason)

    def _advance(self, t: Transaction, to: Delivery) -> None:
        calm = ", interrupted = 0" if to.seq >= self._cautious_until else ""
        statement = f"UPDATE progress SET position = ?, event_id = ?, trying = 0, tries = 0{calm} WHERE consumer = ?"
        t.sql.execute(t.connection, statement, (to.seq, to.event_id, self.name))

    def _begin_alone(self, t: Transaction, lease: Lease, delivery: Delivery) -> bool:
        """Before an event is tried alone, note it; false if that ended the process too often: it is dead now."""
        lease.check(t)
        here = _progress.c.consumer == self.name
        row = t.connection.execute(_progress.select().where(here)).one()
        tries = row.tries + 1 if row.trying == delivery.seq else 1
        if tries <= _TRIES_ALONE:
            t.connection.execute(_progress.update().where(here).values(trying=delivery.seq, tries=tries))
            return True
        if self._new(t, [delivery]):
            error = "the process ended while it was handled"
            letters.bury(t, self.name, [Letter(delivery, error, tries - 1, letters.CRASHED)])
        self._advance(t, delivery)
        return False


class UnknownType(Malformed):
    """The event is of a type that the consumer did not subscribe to."""


def _ids_of(delivery: Delivery, event: Message, origin: Origin) -> dict[str, object]:
    """Return what the lines of a handler are about."""
    ids: dict[str, object] = {**logs.ids_of(event), "event_id": delivery.event_id, "type": delivery.type}
    return {**ids, **origin.trace.ids}


def _reason(error: Malformed) -> str:
    return letters.UNKNOWN_TYPE if isinstance(error, UnknownType) else letters.UNDECODABLE


def _error_of(work: UnitOfWork, unit: Unit[None]) -> Exception | None:
    outcome = attempt(work, unit)
    return None if isinstance(outcome, Done) else outcome.error
