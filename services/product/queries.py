"""What a caller can ask product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.product import store
from weft import pages
from weft.domain import InvalidInput, NotFound, Violation, id_violations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from services.product.domain import Product

MAX_SKUS = 200

_products = store.products.table


def get_product(connection: Connection, sku: str) -> Product:
    """Return one product. Raises `InvalidInput`, naming `sku`, and `NotFound`."""
    _check_skus({"sku": sku})
    product = store.products.find(connection, sku)
    if product is None:
        raise NotFound("product", sku)
    return product


def get_products(connection: Connection, skus: Sequence[str]) -> Sequence[Product]:
    """Return those of at most 200 products that exist, in no order. Raises `InvalidInput`, naming `skus`."""
    if len(skus) > MAX_SKUS:
        raise InvalidInput(Violation("skus", f"must be at most {MAX_SKUS}"))
    _check_skus({f"skus[{n}]": sku for n, sku in enumerate(skus)})
    rows = connection.execute(_products.select().where(_products.c.sku.in_(skus)))
    return store.products.from_rows(rows)


def list_products(connection: Connection, wanted: pages.PageRequest) -> tuple[Sequence[Product], str]:
    """Return a page of the catalogue by sku, and the next page's token. Raises `InvalidInput`."""
    listing = pages.listing(connection, wanted)
    query = _products.select().order_by(_products.c.sku).limit(listing.size + 1)
    if position := listing.position(str):
        query = query.where(_products.c.sku > position[0])
    products = store.products.from_rows(connection.execute(query))
    return listing.cut(products, lambda product: (product.sku,))


def _check_skus(skus: Mapping[str, str]) -> None:
    wrong = [one for field, sku in skus.items() for one in id_violations(field, sku)]
    if wrong:
        raise InvalidInput(*wrong)
