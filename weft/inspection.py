"""What a service knows of one aggregate's flow: what it recorded, what it promised, and where others' events are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, tuple_

from weft import actions, letter_queries, tables
from weft.letter_messages import at, letter_of
from weft.letter_queries import is_parked
from weft.trace_context import TraceContext
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Row

MOST_EVENTS = 1000
"""The most events that are shown, or asked about, at once."""

_outbox = tables.outbox.c
_intents = tables.intents.c
_inbox = tables.inbox.c


def inspect_aggregate(
    connection: Connection,
    aggregate_id: str,
    events: Sequence[api.FoundEvent],
    listeners: Mapping[str, Sequence[str]],
) -> api.InspectAggregateResponse:
    """Return what is known of an aggregate. `listeners` are the consumers that handle an event type."""
    return api.InspectAggregateResponse(
        recorded=_recorded(connection, aggregate_id),
        intents=_open_intents(connection, aggregate_id),
        received=_received(connection, events, listeners),
    )


def _recorded(connection: Connection, aggregate_id: str) -> list[api.RecordedEvent]:
    """Return the latest of an aggregate's events in the outbox, in their order."""
    query = select(
        _outbox.seq, _outbox.event_id, _outbox.type, _outbox.aggregate_id, _outbox.time, _outbox.published_at,
        _outbox.traceparent,
    ).where(_outbox.aggregate_id == aggregate_id)  # fmt: skip
    rows = connection.execute(query.order_by(_outbox.seq.desc()).limit(MOST_EVENTS)).all()
    return [_recorded_event(row) for row in reversed(rows)]


def _recorded_event(row: Row[Any]) -> api.RecordedEvent:
    event = api.FoundEvent(
        event_id=row.event_id, event_type=row.type, aggregate_id=row.aggregate_id, seq=row.seq, time=at(row.time)
    )
    published = None if row.published_at is None else at(row.published_at)
    trace_id = TraceContext(row.traceparent).trace_id
    return api.RecordedEvent(event=event, publish_time=published, trace_id=trace_id)


def _open_intents(connection: Connection, aggregate_id: str) -> Iterable[api.OpenIntent]:
    query = select(tables.intents).where(_intents.key == aggregate_id).order_by(_intents.created_at, _intents.kind)
    for row in connection.execute(query):
        yield api.OpenIntent(
            kind=row.kind,
            due_time=None if row.due_at is None else at(row.due_at),
            create_time=at(row.created_at),
            attempts=row.attempts,
            error=row.error,
        )


def _received(
    connection: Connection, events: Sequence[api.FoundEvent], listeners: Mapping[str, Sequence[str]]
) -> list[api.EventStatus]:
    """Return where each event is, for each consumer that handles its type."""
    places = [(consumer, one.event_id) for one in events for consumer in listeners.get(one.event_type, ())]
    if not places:
        return []
    consumers, event_ids = {place[0] for place in places}, {place[1] for place in places}
    found = letter_queries.find_by_event(connection, consumers, event_ids)
    letters = {(row.consumer, row.event_id): row for row in found}
    inbox = select(_inbox.consumer, _inbox.event_id).where(tuple_(_inbox.consumer, _inbox.event_id).in_(places))
    at_last: dict[tuple[str, str], api.EventPlace.ValueType]
    at_last = {(row.consumer, row.event_id): api.EVENT_PLACE_HANDLED for row in connection.execute(inbox)}
    # Of these too the inbox knows that they came.
    for row in actions.find_drops(connection, event_ids):
        at_last[_consumer_in(row.outcome), row.target] = api.EVENT_PLACE_DROPPED
    return [_status(*place, letters.get(place), at_last.get(place, api.EVENT_PLACE_WAITING)) for place in places]


def _consumer_in(outcome: str) -> str:
    """Return whose letter was dropped: the action's outcome begins with the letter's id."""
    return outcome.partition(": ")[0].rpartition(".")[0]


def _status(consumer: str, event_id: str, letter: Row[Any] | None, place: api.EventPlace.ValueType) -> api.EventStatus:
    """Return where an event is: with its letter, or at `place` if it has none."""
    status = api.EventStatus(event_id=event_id, consumer=consumer, place=place)
    if letter is not None:
        status.place = api.EVENT_PLACE_PARKED if is_parked(letter) else api.EVENT_PLACE_DEAD
        status.letter.CopyFrom(letter_of(letter))
    return status
