"""Filling gaps by hand: events that a consumer has not handled, and events that a stream does not have.

Each call looks at a bounded part and says where to go on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import func, select

from weft import actions, tables
from weft.clock import from_micros, timestamp
from weft.domain import InvalidInput, NotFound, Unavailable, Violation, id_violations, text_violations
from weft.events import subject_of
from weft.lost import Published, find_lost, published_from, unpublish
from weft.progress import positions
from weft.pull import BrokerTrouble
from weft.scan import Scan
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection

    from weft.broker import Broker
    from weft.consumer import Consumer
    from weft.events import Delivery
    from weft.writer import Reader, Transaction, Writer

MESSAGES_AT_ONCE = 5000
"""The most messages of a stream that one call looks at."""
ROWS_AT_ONCE = 5000
"""The most rows of the outbox that one call looks at."""
_READ_AT_ONCE = 500
_MOST_MISSING = 1000
_MOST_BYTES = 32 * 1024 * 1024
_LONGEST_NAME = 256
_LATEST = 2**63 // 1000 - 1
"""In microseconds: what the broker counts in nanoseconds ends in 2262."""

_outbox = tables.outbox


class Recovery:
    """Redelivers and republishes for one service, on whichever of its instances is asked."""

    def __init__(
        self,
        broker: Broker,
        writer: Writer,
        reader: Reader,
        consumers: Callable[[], Sequence[Consumer]],
        *,
        parked: Callable[[], None],
        committed: Callable[[], None],
    ) -> None:
        """`consumers` returns those that the service has. When events are to be handled, `parked` is called in the
        writer's thread, before anything else is written, and `committed` on the event loop."""
        self._broker = broker
        self._writer = writer
        self._reader = reader
        self._consumers = consumers
        self._parked = parked
        self._committed = committed

    async def redeliver(self, request: api.RedeliverRequest, actor: str) -> api.RedeliverResponse:
        """Have events handled that a consumer's inbox does not know, although it read on beyond them.

        They are parked, due now. Raises `InvalidInput`, `NotFound` for an unknown consumer, and `Unavailable`.
        """
        wrong = text_violations("consumer", request.consumer, _LONGEST_NAME)
        if request.aggregate_id:
            wrong += id_violations("aggregate_id", request.aggregate_id)
        from_time = _begin_of(request, wrong)
        consumer = self._consumer(request.consumer)
        reached = await self._reader.run(positions, [consumer.name])
        answer = api.RedeliverResponse(last_seq=reached.get(consumer.name, 0))
        try:
            missing = await self._find_missing(request, from_time, consumer, answer)
        except BrokerTrouble as error:
            raise Unavailable(f"the broker cannot be read now: {error}") from error
        if missing and not request.dry_run:
            missing = await self._writer.transact(partial(self._park, consumer, missing, actor, request.why))
            self._committed()
        answer.missing.extend(map(_found_event, missing))
        return answer

    def _consumer(self, name: str) -> Consumer:
        consumers = self._consumers()
        for consumer in consumers:
            if consumer.name == name:
                return consumer
        known = ", ".join(sorted(one.name for one in consumers)) or "none"
        raise NotFound("consumer", f"{name} (there are: {known})")

    async def _find_missing(
        self, request: api.RedeliverRequest, from_time: int | None, consumer: Consumer, answer: api.RedeliverResponse
    ) -> list[Delivery]:
        """Return events that are missing in the part that is looked at; say in `answer` which part that was."""
        # Without an aggregate all is read and sorted out here: the broker takes longer for several filters than that.
        one = request.aggregate_id
        subjects = [subject_of(type_name, one) for type_name in consumer.subscriptions] if one else []
        missing: dict[str, Delivery] = {}
        size = 0
        start = Scan(self._broker, consumer.stream, subjects, from_seq=max(request.from_seq, 1), from_time=from_time)
        async with start as scan:
            while found := await scan.take(min(_READ_AT_ONCE, MESSAGES_AT_ONCE - answer.scanned)):
                here = [one for one in found if one.seq <= answer.last_seq]
                answer.scanned += len(here)
                for delivery in await self._not_handled(consumer, here):
                    size += len(delivery.body) if delivery.event_id not in missing else 0
                    missing.setdefault(delivery.event_id, delivery)
                if len(here) < len(found):
                    break
                if answer.scanned >= MESSAGES_AT_ONCE or len(missing) >= _MOST_MISSING or size >= _MOST_BYTES:
                    answer.next_seq = here[-1].seq + 1 if here[-1].seq < answer.last_seq else 0
                    break
        return list(missing.values())

    async def _not_handled(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Delivery]:
        mine = [one for one in deliveries if one.subject.rpartition(".")[0] in consumer.subscriptions]
        handled = await self._reader.run(_handled, consumer.name, [one.event_id for one in mine])
        return [one for one in mine if one.event_id not in handled]

    def _park(
        self, consumer: Consumer, missing: Sequence[Delivery], actor: str, why: str, t: Transaction
    ) -> list[Delivery]:
        """Park events that nobody handled meanwhile, and return them."""
        mine = consumer.park_missing(t, missing)
        if mine:
            events = {one.event_id: f"{consumer.name}.{one.seq}: {_named(one.type, one.key)}" for one in mine}
            outcome = f"{len(mine)} events of {consumer.stream}, numbers {mine[0].seq} to {mine[-1].seq}"
            actions.write_down_events(t, actor, "redeliver", why, events, (consumer.name, outcome))
            t.then.append(self._parked)
        return mine

    async def republish(self, request: api.RepublishRequest, actor: str) -> api.RepublishResponse:
        """Have events published again that the outbox holds as published, and their stream does not have.

        Raises `InvalidInput` and `Unavailable`.
        """
        from_seq = await self._reader.run(_row_from, request.from_seq, _begin_of(request))
        rows = await self._reader.run(published_from, from_seq, ROWS_AT_ONCE)
        try:
            lost = await find_lost(self._broker, rows)
        except BrokerTrouble as error:
            raise Unavailable(f"the broker cannot be read now: {error}") from error
        if lost and not request.dry_run:
            await self._writer.transact(partial(self._republish, lost, actor, request.why))
        last_seq = await self._reader.run(_last_row)
        more = len(rows) == ROWS_AT_ONCE and rows[-1].seq < last_seq
        return api.RepublishResponse(
            missing=map(_found_row, lost),
            scanned=len(rows),
            next_seq=rows[-1].seq + 1 if more else 0,
            last_seq=last_seq,
        )

    def _republish(self, lost: Sequence[Published], actor: str, why: str, t: Transaction) -> None:
        unpublish(t, lost)
        events = {one.event_id: f"outbox.{one.seq}: {_named(one.type, one.aggregate_id)}" for one in lost}
        outcome = f"{len(lost)} events, numbers {lost[0].seq} to {lost[-1].seq} of the outbox"
        actions.write_down_events(t, actor, "republish", why, events, ("outbox", outcome))


def _begin_of(request: api.RedeliverRequest | api.RepublishRequest, wrong: Sequence[Violation] = ()) -> int | None:
    """Return the time from which to look, in microseconds; None if a number says it, or nothing.

    Raises `InvalidInput` for what is wrong with it, and what was found before.
    """
    found, time = [*wrong], None
    if request.from_seq < 0:
        found.append(Violation("from_seq", "must not be negative"))
    try:
        if request.HasField("from_time"):
            time = min(request.from_time.ToMicroseconds(), _LATEST)
    except ValueError:
        found.append(Violation("from_time", "must be a time in the years 1 to 9999"))
    if found:
        raise InvalidInput(*found)
    return None if request.from_seq else time


def _named(type_name: str, aggregate_id: str) -> str:
    return f"{type_name.rpartition('.')[2]} of {aggregate_id}"


def _handled(connection: Connection, consumer: str, ids: Iterable[str]) -> set[str]:
    inbox = tables.inbox.c
    query = select(inbox.event_id).where(inbox.consumer == consumer, inbox.event_id.in_(list(ids)))
    return set(connection.execute(query).scalars())


def _row_from(connection: Connection, seq: int, time: int | None) -> int:
    """Return the number of the first row of the outbox at or after a number, or a time; one beyond all for none."""
    if time is None:
        return seq
    first = connection.execute(select(func.min(_outbox.c.seq)).where(_outbox.c.time >= time)).scalar()
    return _last_row(connection) + 1 if first is None else int(first)


def _last_row(connection: Connection) -> int:
    return connection.execute(select(func.max(_outbox.c.seq))).scalar() or 0


def _found_event(delivery: Delivery) -> api.FoundEvent:
    time = Timestamp()
    try:
        time.FromJsonString(delivery.headers.get("ce-time", ""))
        known: Timestamp | None = time
    except ValueError:
        known = None
    return api.FoundEvent(
        event_id=delivery.event_id,
        event_type=delivery.type.encode(errors="replace").decode(),  # whatever the header held
        aggregate_id=delivery.key,
        seq=delivery.seq,
        time=known,
    )


def _found_row(row: Published) -> api.FoundEvent:
    return api.FoundEvent(
        event_id=row.event_id,
        event_type=row.type,
        aggregate_id=row.aggregate_id,
        seq=row.seq,
        time=timestamp(from_micros(row.time)),
    )
