"""Events that could not be handled: parked ones are tried again in order, dead letters wait for a person.

Both are rows in the service's database, with the message as it came, so nothing depends on the broker's
redelivery and nothing else waits for them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from weft import logs, tables
from weft.clock import micros
from weft.events import FORMER_LIFE, Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Row

    from weft.writer import Transaction

_log = logs.logger("weft.letters")
_parked = tables.parked

UNDECODABLE = "UNDECODABLE"
"""The message is no CloudEvent, or its body not the protobuf message that it claims to be."""
UNKNOWN_TYPE = "UNKNOWN_TYPE"
"""It claims to be of a type that the consumer did not subscribe to."""
REFUSED = "REFUSED"
"""The handler said that trying again is useless."""
EXHAUSTED = "EXHAUSTED"
"""The handler failed too often."""
CRASHED = "CRASHED"
"""The process died whenever it handled this event."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a parked event is tried again: `base` seconds, doubled each time up to `cap`, 20% jitter."""

    base: float = 0.2
    cap: float = 60.0
    attempts: int = 12

    def delay(self, attempts: int) -> int:
        """Return microseconds until the next try, after `attempts` failed ones."""
        seconds = min(self.base * 2.0 ** min(attempts - 1, 30), self.cap)
        return int(seconds * random.uniform(0.8, 1.2) * 1_000_000)

    def has_come(self, at: int, now: int) -> bool:
        """Tell whether the time `at` of a try has come; both in microseconds.

        What is further away than any delay was set by a clock that has been put back since: it need not wait.
        """
        return at <= now or at - now > (1.2 * self.cap + 1.0) * 1_000_000


def describe(error: BaseException) -> str:
    """Return an error in one line of bounded length."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:2000]


@dataclass(frozen=True, slots=True)
class Letter:
    """A delivery that was not handled: why, after how many failed tries, and since when (microseconds)."""

    delivery: Delivery
    error: str
    attempts: int = 0
    reason: str = ""
    first_at: int | None = None


def park(transaction: Transaction, consumer: str, letters: Sequence[Letter], policy: RetryPolicy) -> dict[str, int]:
    """Park deliveries; return when the first of each key is due (microseconds).

    One with no failed try of its own waits for its predecessors.
    """
    now = micros(transaction.now)
    due: dict[str, int] = {}
    rows = []
    for letter in letters:
        next_at = now + (policy.delay(letter.attempts) if letter.attempts else 0)
        due.setdefault(letter.delivery.key, next_at)
        rows.append({"consumer": consumer, "key": letter.delivery.key, **_columns(letter, now), "next_at": next_at})
    if rows:
        transaction.sql.insert_new(transaction.connection, _parked, rows, "event_id")
        transaction.then.append(partial(_tell, "event parked", consumer, [one for one in letters if one.attempts]))
    return due


def bury(transaction: Transaction, consumer: str, letters: Sequence[Letter]) -> None:
    """Make dead letters of deliveries, each with its reason."""
    now = micros(transaction.now)
    rows = [
        {"consumer": consumer, **_columns(letter, now), "reason": letter.reason, "died_at": now} for letter in letters
    ]
    if rows:
        transaction.sql.insert_new(transaction.connection, tables.dead_letters, rows, "event_id")
        transaction.then.append(partial(_tell, "dead letter", consumer, letters))


def heads(transaction: Transaction, consumer: str) -> dict[str, int]:
    """Return the keys that have parked events, and when the first event of each is due (microseconds)."""
    query = (
        _parked.select()
        .with_only_columns(_parked.c.key, _parked.c.next_at)
        .where(_parked.c.consumer == consumer)
        .order_by(_parked.c.stream, _parked.c.seq.desc())
    )
    return {row.key: row.next_at for row in transaction.connection.execute(query)}


def first_parked(transaction: Transaction, consumer: str, key: str) -> Row[Any] | None:
    """Return the oldest parked event of a key."""
    query = (
        _parked.select().where(_parked.c.consumer == consumer, _parked.c.key == key).order_by(_parked.c.seq).limit(1)
    )
    return transaction.connection.execute(query).one_or_none()


def delivery_of(row: Row[Any]) -> Delivery:
    """Return the message of a parked event or dead letter as it came."""
    return Delivery(row.stream, row.seq, row.subject, orjson.loads(row.headers), row.body)


def unpark(transaction: Transaction, row: Row[Any]) -> None:
    """Forget a parked event."""
    transaction.sql.delete(transaction.connection, _parked, [(row.consumer, row.event_id)])


def postpone(transaction: Transaction, row: Row[Any], attempts: int, error: str, policy: RetryPolicy) -> int:
    """Note that a parked event failed so often; return when the next try is due (microseconds)."""
    next_at = micros(transaction.now) + policy.delay(attempts)
    here = (_parked.c.consumer == row.consumer) & (_parked.c.event_id == row.event_id)
    change = {"attempts": attempts, "error": error, "next_at": next_at}
    transaction.connection.execute(_parked.update().where(here).values(change))
    return next_at


def outlive_stream(transaction: Transaction, consumer: str) -> None:
    """Note that a consumer's stream was made anew, or lost its tail: the numbers of its letters come again.

    They become lower than any that can come, in the order that they have: so an event that is parked from now on does
    not go before an earlier one of its aggregate, and no two letters have one id.
    """
    # Dead letters first: one that is tried again meanwhile becomes a parked event, and is not missed then.
    for table in (tables.dead_letters, _parked):
        lower = table.update().where(table.c.consumer == consumer).values(seq=table.c.seq - FORMER_LIFE)
        transaction.connection.execute(lower)


def _tell(what: str, consumer: str, letters: Iterable[Letter]) -> None:
    for letter in letters:
        one = letter.delivery
        told = {"consumer": consumer, "event_id": one.event_id, "type": one.type, "key": one.key}
        told |= {"error": letter.error, **one.origin.trace.ids}
        if letter.reason:
            _log.error(what, reason=letter.reason, attempts=letter.attempts, **told)
        else:
            _log.warning(what, **told)


def _columns(letter: Letter, now: int) -> dict[str, Any]:
    delivery = letter.delivery
    return {
        "event_id": delivery.event_id,
        "type": delivery.type.replace("\0", ""),  # which PostgreSQL cannot store
        "subject": delivery.subject.replace("\0", ""),
        "stream": delivery.stream,
        "seq": delivery.seq,
        "headers": orjson.dumps(dict(delivery.headers)).decode(),
        "body": delivery.body,
        "error": letter.error.replace("\0", ""),
        "attempts": letter.attempts,
        "first_at": now if letter.first_at is None else letter.first_at,
    }
