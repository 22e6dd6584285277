"""How shipments are kept: a row each."""

from __future__ import annotations

from typing import Any

import orjson
from google.type.postal_address_pb2 import PostalAddress
from sqlalchemy import BigInteger, MetaData
from sqlmodel import Field, SQLModel

from services.shipping.domain import Line, Shipment, State
from weft import Store, from_micros, micros


class Tables(SQLModel):
    """The tables of this service."""

    metadata = MetaData()


class ShipmentRow(Tables, table=True):
    """One order's shipment: `lines` is a JSON array of [sku, quantity], `ship_to` the protobuf message.

    `paid`, `reserved` and `confirmed` tell what was heard of the order.
    """

    __tablename__ = "shipments"
    order_id: str = Field(primary_key=True)
    state: str
    lines: str
    ship_to: bytes | None
    paid: bool
    reserved: bool
    confirmed: bool
    create_time: int = Field(sa_type=BigInteger)
    update_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)
    user_id: str = Field(sa_column_kwargs={"server_default": ""})


def _load(row: Any) -> Shipment:
    return Shipment(
        order_id=row.order_id,
        state=State(row.state),
        lines=tuple(Line(*line) for line in orjson.loads(row.lines)),
        ship_to=None if row.ship_to is None else PostalAddress.FromString(row.ship_to),
        paid=bool(row.paid),
        reserved=bool(row.reserved),
        confirmed=bool(row.confirmed),
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
        user_id=row.user_id,
    )


def _dump(shipment: Shipment) -> dict[str, Any]:
    return {
        "order_id": shipment.order_id,
        "state": shipment.state.value,
        "lines": orjson.dumps([tuple(line) for line in shipment.lines]).decode(),
        "ship_to": None if shipment.ship_to is None else shipment.ship_to.SerializeToString(deterministic=True),
        "paid": shipment.paid,
        "reserved": shipment.reserved,
        "confirmed": shipment.confirmed,
        "create_time": micros(shipment.create_time),
        "update_time": micros(shipment.update_time),
        "user_id": shipment.user_id,
    }


shipments = Store(ShipmentRow, key="order_id", load=_load, dump=_dump)
