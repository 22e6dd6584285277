"""How the catalogue is kept: a row for each product."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, MetaData
from sqlmodel import Field, SQLModel

from services.product.domain import Product
from weft import Store, from_micros, micros
from weft.domain import Money


class Tables(SQLModel):
    """The tables of this service."""

    metadata = MetaData()


class ProductRow(Tables, table=True):
    """One product: the price in billionths of its currency's unit, times in microseconds since the epoch."""

    __tablename__ = "products"
    sku: str = Field(primary_key=True)
    title: str
    description: str
    currency: str
    price_nanos: int = Field(sa_type=BigInteger)
    active: bool
    revision: int = Field(sa_type=BigInteger)
    create_time: int = Field(sa_type=BigInteger)
    update_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


def _load_product(row: Any) -> Product:
    return Product(
        sku=row.sku,
        title=row.title,
        description=row.description,
        price=Money(row.currency, row.price_nanos),
        active=bool(row.active),
        revision=row.revision,
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
    )


def _dump_product(product: Product) -> dict[str, Any]:
    return {
        "sku": product.sku,
        "title": product.title,
        "description": product.description,
        "currency": product.price.currency,
        "price_nanos": product.price.nanos,
        "active": product.active,
        "revision": product.revision,
        "create_time": micros(product.create_time),
        "update_time": micros(product.update_time),
    }


products = Store(
    ProductRow,
    key="sku",
    load=_load_product,
    dump=_dump_product,
)
