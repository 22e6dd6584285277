"""What a caller can have order do, and how an order is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.order import store
from services.order.domain import Order, State
from weft.domain import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from commerce.order.v1.order_service_pb2 import CreateOrderRequest
    from services.order.domain import Line
    from weft import UnitOfWork

DEADLINE = "deadline"
"""The timer that ends an order which nobody decides; its key is the order's id."""


def place_order(
    work: UnitOfWork, order_id: str, request: CreateOrderRequest, lines: Sequence[Line], patience: timedelta
) -> Order:
    """Take an order at the prices of `lines`; from its publication on, it has `patience` to be decided."""
    order = Order.place(
        order_id=order_id,
        user_id=request.user_id,
        lines=lines,
        ship_to=request.ship_to,
        payment_token=request.payment_token,
        now=work.now,
    )
    work.add(store.orders, order)
    work.intend(DEADLINE, order_id, {}, after=patience, once_published=True)
    return order


def cancel_order(work: UnitOfWork, order_id: str) -> Order:
    """Cancel an order as its customer wants. Raises `NotFound`, and `Refused` once it is shipped."""
    return change_order(work, order_id, Order.cancel)


def change_order(work: UnitOfWork, order_id: str, happened: Callable[[Order, datetime], None]) -> Order:
    """Tell an order what happened; once it is decided, its deadline is off. Raises `NotFound`."""
    order = work.get(store.orders, order_id)
    if order is None:
        raise NotFound("order", order_id)
    was_pending = order.state is State.PENDING
    happened(order, work.now)
    if was_pending and order.state is not State.PENDING:
        work.withdraw(DEADLINE, order_id)
    return order
