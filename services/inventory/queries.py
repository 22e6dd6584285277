"""What a caller can ask inventory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.inventory import store
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from services.inventory.domain import StockItem


def get_stock(connection: Connection, sku: str) -> StockItem:
    """Return one stock item. Raises `InvalidInput` and `NotFound`."""
    check_id("sku", sku)
    item = store.stock.find(connection, sku)
    if item is None:
        raise NotFound("stock item", sku)
    return item
