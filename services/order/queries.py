"""What a caller can ask order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.order import store
from services.order.domain import UNFINISHED
from weft import micros, pages
from weft.domain import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from services.order.domain import Order, ProductCopy, State, UserCopy
    from weft.identity import Caller

_orders = store.orders.table
_products = store.products.table


def get_order(connection: Connection, order_id: str, caller: Caller) -> Order:
    """Return one order. Raises `NotFound`, also for one that the caller may not see."""
    order = store.orders.find(connection, order_id)
    if order is None or not caller.may_see(order.user_id):
        raise NotFound("order", order_id)
    return order


def list_orders(
    connection: Connection,
    wanted: pages.PageRequest,
    *,
    user_id: str = "",
    state: State | None = None,
    unfinished_since: datetime | None = None,
) -> tuple[Sequence[Order], str]:
    """Return a page of orders, newest first, and the next page's token; all that is given limits them.

    `unfinished_since` lets through what waits for a decision, and has done so since then. Raises `InvalidInput`.
    """
    listing = pages.listing(connection, wanted)
    query = _orders.select().order_by(_orders.c.order_id.desc()).limit(listing.size + 1)
    if user_id:
        query = query.where(_orders.c.user_id == user_id)
    if state is not None:
        query = query.where(_orders.c.state == state.value)
    if unfinished_since is not None:
        query = query.where(_orders.c.state.in_(UNFINISHED), _orders.c.update_time <= micros(unfinished_since))
    if position := listing.position(str):
        query = query.where(_orders.c.order_id < position[0])
    orders = store.orders.from_rows(connection.execute(query))
    return listing.cut(orders, lambda order: (order.order_id,))


def remembered_products(connection: Connection, skus: Iterable[str]) -> dict[str, ProductCopy]:
    """Return what order remembers of those of the products that it knows."""
    rows = connection.execute(_products.select().where(_products.c.sku.in_(skus)))
    return {product.sku: product for product in store.products.from_rows(rows)}


def remembered_user(connection: Connection, user_id: str) -> UserCopy | None:
    """Return what order remembers of a user; None if it never heard of them."""
    return store.users.find(connection, user_id)
