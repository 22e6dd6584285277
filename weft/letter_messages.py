"""Letters as the contract of operations has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message

from weft.clock import from_micros, micros, timestamp
from weft.domain import InvalidInput, Violation, text_violations
from weft.events import number_in
from weft.letter_box import AT_ONCE, is_number
from weft.letter_queries import Wanted, is_parked, name_of
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from google.protobuf.timestamp_pb2 import Timestamp
    from sqlalchemy import Row

_TEXTS = ("consumer", "event_type", "reason", "aggregate_id")
_LONGEST = 256
_LONGEST_AGE = 315_576_000_000
"""In seconds: what a `Duration` may be, about 10,000 years."""


def at(time: int) -> Timestamp:
    """Return microseconds since the epoch as protobuf has times."""
    return timestamp(from_micros(time))


def letter_of(row: Row[Any]) -> api.Letter:
    """Return a row of a letter as a message, without headers and payload."""
    letter = api.Letter(
        letter_id=name_of(row),
        kind=api.LETTER_KIND_PARKED if is_parked(row) else api.LETTER_KIND_DEAD,
        consumer=row.consumer,
        event_id=row.event_id,
        event_type=row.type,
        aggregate_id=row.subject.rpartition(".")[2],
        error=row.error,
        attempts=row.attempts,
        first_time=at(row.first_at),
        subject=row.subject,
        stream=row.stream,
        stream_seq=number_in(row.seq),
        body_size=row.body_size,
    )
    if is_parked(row):
        letter.next_time.CopyFrom(at(row.next_at))
    else:
        letter.reason = row.reason
        letter.death_time.CopyFrom(at(row.died_at))
    return letter


def whole_letter_of(row: Row[Any]) -> api.Letter:
    """Return a letter with its headers and, if it can be read, its payload."""
    letter = letter_of(row)
    letter.headers.update({name: str(value) for name, value in orjson.loads(row.headers).items()})
    letter.payload_json = payload_json(row.type, row.body)
    return letter


def payload_json(type_name: str, body: bytes) -> str:
    """Return the JSON of a message of a type, without its `[debug_redact = true]` fields.

    Nothing if the type is unknown here, or the body no such message.
    """
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(type_name)
        message = message_factory.GetMessageClass(found).FromString(body)
        _redact(message)
        return MessageToJson(message, ensure_ascii=False)
    except (KeyError, DecodeError, TypeError, ValueError):
        return ""


def _redact(message: Message) -> None:
    for field, value in message.ListFields():
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.GetOptions().debug_redact:
            message.ClearField(field.name)
        elif field.message_type is None or (entry and field.message_type.fields_by_name["value"].message_type is None):
            continue
        elif field.message_type.full_name == "google.protobuf.Any":  # What it holds cannot be checked.
            message.ClearField(field.name)
        else:
            for one in value.values() if entry else value if field.is_repeated else (value,):
                _redact(one)


def wanted_of(filter: api.LetterFilter, now: datetime) -> Wanted:
    """Return which letters a filter means. Raises `InvalidInput`, naming what is wrong in it."""
    wrong: list[Violation] = []
    for name in _TEXTS:
        wrong += text_violations(f"filter.{name}", getattr(filter, name), _LONGEST)
    if filter.kind not in api.LetterKind.values():
        wrong.append(Violation("filter.kind", "must be LETTER_KIND_DEAD or LETTER_KIND_PARKED"))
    if filter.kind == api.LETTER_KIND_PARKED and filter.reason:
        wrong.append(Violation("filter.reason", "must be empty: only dead letters have one"))
    age = filter.older_than.ToMicroseconds()
    if not 0 <= age <= _LONGEST_AGE * 1_000_000:
        wrong.append(Violation("filter.older_than", f"must be between 0 and {_LONGEST_AGE} seconds"))
    if wrong:
        raise InvalidInput(*wrong)
    return Wanted(
        parked=filter.kind == api.LETTER_KIND_PARKED,
        consumer=filter.consumer,
        event_type=filter.event_type,
        reason=filter.reason,
        aggregate_id=filter.aggregate_id,
        before=micros(now) - age if filter.HasField("older_than") else None,
    )


def chosen_of(request: api.RetryLettersRequest | api.DropLettersRequest, now: datetime) -> Wanted:
    """Return which letters a request names, or its filter means. Raises `InvalidInput` unless it is one of the two."""
    if bool(request.letter_ids) == request.HasField("filter"):
        raise InvalidInput(Violation("letter_ids", "give either letter_ids or filter; an empty filter means all"))
    if not request.letter_ids:
        return wanted_of(request.filter, now)
    return Wanted(ids=_places_of(request.letter_ids))


def _places_of(letter_ids: Sequence[str]) -> frozenset[tuple[str, int]]:
    if len(letter_ids) > AT_ONCE:
        raise InvalidInput(Violation("letter_ids", f"must be at most {AT_ONCE}"))
    places = set()
    for n, one in enumerate(letter_ids):
        consumer, _, number = one.rpartition(".")
        if not is_number(number) or text_violations("", consumer, _LONGEST):
            raise InvalidInput(Violation(f"letter_ids[{n}]", "must be a letter's id, as in payment-from-order.123"))
        places.add((consumer, int(number)))
    return frozenset(places)
