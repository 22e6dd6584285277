"""How orders, and what order remembers of products and users, are kept: a row each."""

from __future__ import annotations

from typing import Any

import orjson
from google.type.postal_address_pb2 import PostalAddress
from sqlalchemy import BigInteger, Index, MetaData
from sqlmodel import Field, SQLModel

from services.order.domain import CancelReason, Line, Order, ProductCopy, State, UserCopy
from weft import Store, from_micros, micros
from weft.domain import Money


class Tables(SQLModel):
    """The tables of this service."""

    metadata = MetaData()


class OrderRow(Tables, table=True):
    """One order.

    `lines` is a JSON array of [sku, quantity, price of one piece]. Prices and the total are in billionths of
    the unit of `currency`, `ship_to` is a serialized `google.type.PostalAddress`, times are microseconds
    since the epoch.
    """

    __tablename__ = "orders"
    __table_args__ = (Index("orders_by_user", "user_id", "order_id"), Index("orders_by_state", "state", "order_id"))
    order_id: str = Field(primary_key=True)
    user_id: str
    state: str
    cancel_reason: str | None
    lines: str
    currency: str
    total_nanos: int = Field(sa_type=BigInteger)
    ship_to: bytes
    create_time: int = Field(sa_type=BigInteger)
    update_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class ProductCopyRow(Tables, table=True):
    """What product last said of a sku: the price is in billionths of the currency's unit."""

    __tablename__ = "product_copies"
    sku: str = Field(primary_key=True)
    currency: str
    price_nanos: int = Field(sa_type=BigInteger)
    active: bool
    revision: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class UserCopyRow(Tables, table=True):
    """What user last said of somebody: `address` is a serialized `google.type.PostalAddress`."""

    __tablename__ = "user_copies"
    user_id: str = Field(primary_key=True)
    address: bytes | None
    revision: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


def _load_order(row: Any) -> Order:
    return Order(
        order_id=row.order_id,
        user_id=row.user_id,
        state=State(row.state),
        cancel_reason=None if row.cancel_reason is None else CancelReason(row.cancel_reason),
        lines=tuple(_load_line(row.currency, *line) for line in orjson.loads(row.lines)),
        total=Money(row.currency, row.total_nanos),
        ship_to=PostalAddress.FromString(row.ship_to),
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
    )


def _load_line(currency: str, sku: str, quantity: int, nanos: int) -> Line:
    return Line(sku, quantity, Money(currency, nanos))


def _dump_order(order: Order) -> dict[str, Any]:
    lines = [(line.sku, line.quantity, line.unit_price.nanos) for line in order.lines]
    return {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "state": order.state.value,
        "cancel_reason": None if order.cancel_reason is None else order.cancel_reason.value,
        "lines": orjson.dumps(lines).decode(),
        "currency": order.total.currency,
        "total_nanos": order.total.nanos,
        "ship_to": order.ship_to.SerializeToString(),
        "create_time": micros(order.create_time),
        "update_time": micros(order.update_time),
    }


def _load_product(row: Any) -> ProductCopy:
    price = Money(row.currency, row.price_nanos)
    return ProductCopy(sku=row.sku, price=price, active=bool(row.active), revision=row.revision)


def _dump_product(product: ProductCopy) -> dict[str, Any]:
    return {
        "sku": product.sku,
        "currency": product.price.currency,
        "price_nanos": product.price.nanos,
        "active": product.active,
        "revision": product.revision,
    }


def _load_user(row: Any) -> UserCopy:
    address = None if row.address is None else PostalAddress.FromString(row.address)
    return UserCopy(user_id=row.user_id, address=address, revision=row.revision)


def _dump_user(user: UserCopy) -> dict[str, Any]:
    address = None if user.address is None else user.address.SerializeToString(deterministic=True)
    return {"user_id": user.user_id, "address": address, "revision": user.revision}


orders = Store(
    OrderRow,
    key="order_id",
    load=_load_order,
    dump=_dump_order,
)
products = Store(
    ProductCopyRow,
    key="sku",
    load=_load_product,
    dump=_dump_product,
)
users = Store(
    UserCopyRow,
    key="user_id",
    load=_load_user,
    dump=_dump_user,
)
