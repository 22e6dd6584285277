"""How stock and reservations are kept: a row each."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import BigInteger, MetaData
from sqlmodel import Field, SQLModel

from services.inventory.domain import Line, Reservation, State, StockItem, level
from weft import Store


class Tables(SQLModel):
    """The tables of this service."""

    metadata = MetaData()


class StockRow(Tables, table=True):
    """The level of one sku."""

    __tablename__ = "stock"
    sku: str = Field(primary_key=True)
    on_hand: int = Field(sa_type=BigInteger)
    reserved: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class ReservationRow(Tables, table=True):
    """What one order asked for: `lines` is a JSON array of [sku, quantity]."""

    __tablename__ = "reservations"
    order_id: str = Field(primary_key=True)
    state: str
    lines: str
    version: int = Field(sa_type=BigInteger)


def _load_stock(row: Any) -> StockItem:
    return StockItem(sku=row.sku, on_hand=row.on_hand, reserved=row.reserved)


def _dump_stock(item: StockItem) -> dict[str, Any]:
    return {"sku": item.sku, "on_hand": item.on_hand, "reserved": item.reserved}


def _load_reservation(row: Any) -> Reservation:
    lines = tuple(Line(*line) for line in orjson.loads(row.lines))
    return Reservation(order_id=row.order_id, state=State(row.state), lines=lines)


def _dump_reservation(reservation: Reservation) -> dict[str, Any]:
    lines = orjson.dumps([tuple(line) for line in reservation.lines]).decode()
    return {"order_id": reservation.order_id, "state": reservation.state.value, "lines": lines}


stock = Store(
    StockRow,
    key="sku",
    load=_load_stock,
    dump=_dump_stock,
    state=level,
    contended=True,
)
reservations = Store(
    ReservationRow,
    key="order_id",
    load=_load_reservation,
    dump=_dump_reservation,
)
