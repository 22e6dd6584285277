"""Answers that are kept under their callers' idempotency keys, so that a call that is repeated has one effect.

A method that its contract marks with `weftapi.v1.keeps_answer` writes by `Writer.answer`, which saves the answer in the
command's own transaction, beside its effects: both are there, or neither. What fails leaves nothing behind, so it is
tried anew when the call is repeated. Here is what the writer has to do with that; `weft.idempotency` is the edge.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message
from sqlalchemy import bindparam, delete, select, tuple_

from weft import tables
from weft.clock import micros
from weft.domain import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy import Connection

    from weft.sql import Sql

M = TypeVar("M", bound=Message)

_kept = tables.kept_answers
_place = (_kept.c.user_id, _kept.c.method, _kept.c.key)
_found = select(*_place, _kept.c.digest, _kept.c.answer, _kept.c.created_at)
_found_at = _found.where(*(column == bindparam(column.name) for column in _place))


class Place(NamedTuple):
    """Where an answer is kept: whose it is, what was called, and under which key."""

    user_id: str
    method: str
    key: str


@dataclass(slots=True)
class Asked:
    """One call to a method that keeps its answers."""

    method: str
    reply: type[Message]
    place: Place | None = None
    """None for a call without a key, whose answer is given and not kept."""
    digest: bytes = b""
    """SHA-256 of the request."""
    lifetime: int = 0
    """For how many microseconds the answer is kept."""
    answer: Answer[Any] | None = None
    """What the writer was told to make the answer from; None until then."""

    def check_same(self, digest: bytes) -> None:
        """Raise `Refused` if what was answered is another request, by its digest."""
        if digest != self.digest:
            raise Refused(
                "IDEMPOTENCY_KEY_REUSED",
                "another request was made with this idempotency key: repeat that one, or take a new key",
            )

    def read(self, row: Any, now: datetime) -> Message | None:
        """Return the answer that a row keeps; None if it is kept no more. Raises `Refused`."""
        if row is None or row.created_at <= micros(now) - self.lifetime:
            return None
        self.check_same(row.digest)
        return self.reply.FromString(row.answer)


@dataclass(slots=True)
class Answer(Generic[M]):
    """The answer to a call: how it is made from what the command returned, and then the message."""

    make: Callable[[Any], M]
    asked: Asked | None = None
    message: M | None = None


_asked: ContextVar[Asked | None] = ContextVar("weft_asked", default=None)


@contextmanager
def asking(asked: Asked) -> Iterator[None]:
    """Within the `with`, this call is in progress."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def expect(make: Callable[[Any], M]) -> Answer[M]:
    """Return the answer that the call in progress is going to have; for the writer.

    Raises `RuntimeError` for a second one in the same call.
    """
    asked = _asked.get()
    answer = Answer(make, asked)
    if asked is not None:
        if asked.answer is not None:
            raise RuntimeError(f"{asked.method} keeps its answer, so it runs one command, and this is its second")
        asked.answer = answer
    return answer


def check_unasked() -> None:
    """Raise `RuntimeError` within a call whose answer is to be kept: an effect without it would happen again."""
    asked = _asked.get()
    if asked is not None:
        raise RuntimeError(f"{asked.method} keeps its answer: its command is run by Writer.answer, not by Writer.run")


def find(connection: Connection, asked: Asked, now: datetime) -> Message | None:
    """Return the answer that is kept for a call with a key, if there is one. Raises `Refused`."""
    assert asked.place is not None
    return asked.read(connection.execute(_found_at, asked.place._asdict()).one_or_none(), now)


def remove_until(connection: Connection, time: int, most: int) -> int:
    """Remove what was kept at `time` (microseconds) or before, at most so many, oldest first; return how many."""
    oldest = select(*_place).where(_kept.c.created_at <= time).order_by(_kept.c.created_at).limit(most)
    return connection.execute(delete(_kept).where(tuple_(*_place).in_(oldest))).rowcount


@dataclass(slots=True)
class Answers:
    """The answers of one transaction: those that were there before, and those that it makes."""

    connection: Connection
    sql: Sql
    now: datetime
    _there: Mapping[Place, Any] = field(default_factory=dict)
    _made: list[tuple[Answer[Any], Any]] = field(default_factory=list)
    _made_at: dict[Place, Answer[Any]] = field(default_factory=dict)

    def load(self, answers: Iterable[Answer[Any]]) -> None:
        """Look for what is kept at the places of all these, with one query."""
        places = {one.asked.place for one in answers if one.asked is not None and one.asked.place is not None}
        if places:
            query = _found.where(tuple_(*_place).in_(sorted(places)))
            self._there = {Place(*row[:3]): row for row in self.connection.execute(query)}

    def earlier(self, wanted: Answer[Any]) -> Answer[Any] | None:
        """Return the answer to the same call that was made before, here or in an earlier transaction.

        Raises `Refused` if there is one to another request.
        """
        asked = wanted.asked
        if asked is None or asked.place is None:
            return None
        if (made := self._made_at.get(asked.place)) is not None:
            assert made.asked is not None
            asked.check_same(made.asked.digest)
            return made
        message = asked.read(self._there.get(asked.place), self.now)
        return None if message is None else Answer(wanted.make, asked, message)

    def add(self, answer: Answer[Any], value: Any) -> None:
        """Have an answer made from what its command returned, when the transaction is saved."""
        self._made.append((answer, value))
        if answer.asked is not None and answer.asked.place is not None:
            self._made_at[answer.asked.place] = answer

    def save(self) -> None:
        """Make the answers, once the aggregates are as they will be read, and keep those that have a key.

        Raises what making one raises, and `IntegrityError` if somebody else kept one at the same place.
        """
        for answer, value in self._made:
            try:
                answer.message = answer.make(value)
            except SystemExit:  # as in a command (see `weft.work.attempt`)
                raise RuntimeError("it tried to end the process") from None
        if self._made_at:
            # In one order everywhere, so that two instances do not wait for each other.
            places = sorted(self._made_at)
            if past := [place for place in places if place in self._there]:
                self.sql.delete(self.connection, _kept, past)
            self.sql.insert(self.connection, _kept, [self._row(place) for place in places])

    def _row(self, place: Place) -> dict[str, Any]:
        answer = self._made_at[place]
        assert answer.asked is not None
        assert answer.message is not None
        return {
            **place._asdict(),
            "digest": answer.asked.digest,
            "answer": answer.message.SerializeToString(),
            "created_at": micros(self.now),
        }
