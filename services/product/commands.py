"""What a caller can have product do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.product import store
from services.product.domain import Product
from weft.domain import AlreadyExists, NotFound, Outdated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from google.type.money_pb2 import Money as MoneyMessage

    from weft import UnitOfWork


def create_product(
    work: UnitOfWork, *, sku: str, title: str, description: str, price: MoneyMessage, active: bool
) -> Product:
    """Add a product to the catalogue. Raises `InvalidInput` and `AlreadyExists`."""
    product = Product.create(sku=sku, title=title, description=description, price=price, active=active, now=work.now)
    if work.get(store.products, sku) is not None:
        raise AlreadyExists("product", sku)
    work.add(store.products, product)
    return product


def update_product(work: UnitOfWork, sku: str, changes: Mapping[str, Any], etag: str = "") -> Product:
    """Set fields, by `Product.change`'s names, to new values, if the product still has the `etag` that is given.

    Raises `NotFound`, `Outdated` and `InvalidInput`.
    """
    product = work.get(store.products, sku)
    if product is None:
        raise NotFound("product", sku)
    if etag and etag != product.etag:
        raise Outdated("product", sku)
    product.change(now=work.now, **changes)
    return product
