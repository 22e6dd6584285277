"""What a caller can have inventory do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.inventory import store
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from services.inventory.domain import StockItem
    from weft import UnitOfWork


def restock(work: UnitOfWork, sku: str, quantity: int) -> StockItem:
    """Add pieces and return the stock item. Raises `NotFound` and `InvalidInput`."""
    check_id("sku", sku)
    item = work.get(store.stock, sku)
    if item is None:
        raise NotFound("stock item", sku)
    item.restock(quantity)
    return item
