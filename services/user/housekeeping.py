"""What has to be done from time to time: new signing keys in time, and nothing kept that is of no more use."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Table, delete, select

from services.user import queries, store
from services.user.keys import first_or_next, retired
from weft import Timer, micros

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from services.user.keys import Schedule
    from weft import UnitOfWork

KEPT = timedelta(days=1)
"""For how long attempts to sign in are remembered after the last one."""

_KIND = "housekeeping"
_KEY = "user"
_PAUSE = timedelta(minutes=10)
_MOMENT = timedelta(seconds=1)
_MOST = 500
_keys, _sessions, _attempts = (one.table for one in (store.signing_keys, store.sessions, store.attempts))


def timer(schedule: Schedule) -> Timer:
    """Return what keeps house, again and again once `keep_house` has run; one instance at a time."""

    def fire(work: UnitOfWork, _key: str, _payload: Mapping[str, Any]) -> None:
        keep_house(work, schedule)

    return Timer(_KIND, fire, standing=True)


def keep_house(work: UnitOfWork, schedule: Schedule) -> None:
    """Publish the key that is due, delete what is past, at most 500 rows a table, and promise to do so again."""
    keys = queries.signing_keys(work.connection)
    new = first_or_next(keys, schedule, work.now)
    if new is not None:
        work.add(store.signing_keys, new)
    # From here on nothing can fail, so what is deleted need not be taken back.
    gone = [key.kid for key in retired(keys, schedule, work.now)]
    work.connection.execute(delete(_keys).where(_keys.c.kid.in_(gone)))
    many = _delete_before(work, _sessions, _sessions.c.session_id, _sessions.c.expire_time, work.now)
    many |= _delete_before(work, _attempts, _attempts.c.email_hash, _attempts.c.last_time, work.now - KEPT)
    work.withdraw(_KIND, _KEY)
    work.intend(_KIND, _KEY, {}, after=_MOMENT if many else _PAUSE)


def _delete_before(work: UnitOfWork, table: Table, key: Column[Any], time: Column[Any], end: datetime) -> bool:
    """Delete the oldest rows; tell whether there may be more."""
    oldest = select(key).where(time < micros(end)).order_by(time).limit(_MOST)
    return work.connection.execute(delete(table).where(key.in_(oldest))).rowcount == _MOST
