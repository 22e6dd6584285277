"""How payments are kept: as the events that happened to each, one row an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Index, MetaData, text
from sqlmodel import Field, SQLModel

from services.payment.domain import JOURNAL, PUBLISHED, Payment
from weft import EventStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message


class Tables(SQLModel):
    """The tables of this service."""

    metadata = MetaData()


class PaymentEventRow(Tables, table=True):
    """One event of a payment's journal: `body` is the protobuf message `type`, `time` when it was saved."""

    __tablename__ = "payment_events"
    __table_args__ = (
        Index(
            "payment_events_newest",
            "time",
            "order_id",
            sqlite_where=text("version = 1"),
            postgresql_where=text("version = 1"),
        ),
    )
    order_id: str = Field(primary_key=True)
    version: int = Field(primary_key=True, sa_type=BigInteger)
    type: str
    body: bytes
    time: int = Field(sa_type=BigInteger)


def _replay(events: Sequence[Message]) -> Payment:
    return Payment.replay(events[0].order_id, events)  # type: ignore[attr-defined]


payments = EventStore(
    PaymentEventRow,
    key="order_id",
    replay=_replay,
    types=JOURNAL,
    publish=PUBLISHED,
)
