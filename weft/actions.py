"""What operators did: a row each, written in the transaction that does it, so that one is never without the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from weft import identity, tables
from weft.clock import micros

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection, Row

    from weft.writer import Transaction

DROP = "drop"
"""That dead letters were dropped; the outcome begins with the letter's id."""
ITSELF = "relay"
"""The actor of what a service did by itself."""

MOST_ROWS = 1000
"""How many events of one call are written down one by one; of more than that, their number alone."""
_LONGEST = 2000
_actions = tables.actions


def actor() -> str:
    """Return who acts: the subject of the caller's token; outside of a call, the service itself."""
    try:
        return identity.caller().subject
    except RuntimeError:
        return ITSELF


def row_of(at: int, actor: str, action: str, target: str, why: str, outcome: str) -> dict[str, Any]:
    """Return the row of an action at a time (microseconds); its texts become such as can be stored."""
    texts = {"actor": actor, "action": action, "target": target, "why": why, "outcome": outcome}
    return {"at": at, **{name: text.replace("\0", "")[:_LONGEST] for name, text in texts.items()}}


def write_down(transaction: Transaction, actor: str, action: str, target: str, why: str, outcome: str) -> None:
    """Note in `transaction` that somebody did something.

    `action` is a verb, as in `retry`; `target` is what it was done to: an event's id, a consumer, an aggregate's
    id; `outcome` says for people what came of it.
    """
    row = row_of(micros(transaction.now), actor, action, target, why, outcome)
    transaction.sql.insert(transaction.connection, _actions, [row])


def write_down_events(
    transaction: Transaction, actor: str, action: str, why: str, events: Mapping[str, str], together: tuple[str, str]
) -> None:
    """Note in `transaction` that somebody did something with events: a row for each of `events`, ids with outcomes.

    Of more than `MOST_ROWS` there is one row: `together` is its target and outcome.
    """
    one_by_one = events.items() if len(events) <= MOST_ROWS else [together]
    now = micros(transaction.now)
    rows = [row_of(now, actor, action, target, why, outcome) for target, outcome in one_by_one]
    if rows:
        transaction.sql.insert(transaction.connection, _actions, rows)


def list_actions(connection: Connection, limit: int, before: int | None = None, target: str = "") -> Sequence[Row[Any]]:
    """Return the latest actions, at most `limit`, the latest first: those with a lower id than `before`.

    With a `target` only what was done to exactly that.
    """
    query = select(_actions).order_by(_actions.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_actions.c.id < before)
    if target:
        query = query.where(_actions.c.target == target)
    return connection.execute(query).all()


def find_drops(connection: Connection, event_ids: Collection[str]) -> Sequence[Row[Any]]:
    """Return the actions by which dead letters of these events were dropped."""
    here = (_actions.c.action == DROP) & _actions.c.target.in_(list(event_ids))
    return connection.execute(select(_actions).where(here)).all()
