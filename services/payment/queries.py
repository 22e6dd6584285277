"""What a caller can ask payment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import literal_column, select, tuple_

from services.payment import store
from weft import from_micros, pages
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Row

    from services.payment.domain import Payment
    from weft.identity import Caller

_events = store.payments.table


class KeptPayment(NamedTuple):
    """A payment, and when its first and its last event were saved."""

    payment: Payment
    create_time: datetime
    update_time: datetime


def get_payment(connection: Connection, order_id: str, caller: Caller) -> KeptPayment:
    """Return the payment of an order. Raises `InvalidInput`, and `NotFound`, also if the caller may not see it."""
    check_id("order_id", order_id)
    found = _replay(connection, [order_id])
    if not found or not caller.may_see(found[0].payment.user_id):
        raise NotFound("payment", order_id)
    return found[0]


def list_payments(connection: Connection, wanted: pages.PageRequest) -> tuple[list[KeptPayment], str]:
    """Return a page of payments, newest first, and the token of the next page. Raises `InvalidInput`."""
    listing = pages.listing(connection, wanted)
    after = listing.position(int, str)
    place = (_events.c.time, _events.c.order_id)
    # A literal, because the index of the first events is used for no other wording.
    query = select(*place).where(_events.c.version == literal_column("1"))
    if after is not None:
        query = query.where(tuple_(*place) < after)
    query = query.order_by(*(column.desc() for column in place)).limit(listing.size + 1)
    rows, next_page_token = listing.cut(connection.execute(query).all(), lambda row: (row.time, row.order_id))
    return _replay(connection, [row.order_id for row in rows]), next_page_token


def _replay(connection: Connection, order_ids: Collection[str]) -> list[KeptPayment]:
    """Return those payments that there are, in the order of `order_ids`, with one query for all."""
    query = _events.select().where(_events.c.order_id.in_(order_ids)).order_by(_events.c.version)
    rows = connection.execute(query).all()
    journals: dict[str, list[Row[Any]]] = {}
    for row in rows:
        journals.setdefault(row.order_id, []).append(row)
    payments = store.payments.from_rows(rows)
    return [_kept(payments[key], journals[key]) for key in order_ids if key in payments]


def _kept(payment: Payment, rows: Sequence[Row[Any]]) -> KeptPayment:
    return KeptPayment(payment, from_micros(rows[0].time), from_micros(rows[-1].time))
