"""What a caller can have order do, and how an order is changed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from services.order import store
from services.order.domain import CancelReason, Order, State
from weft.domain import NotFound, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from google.type.postal_address_pb2 import PostalAddress

    from services.order.domain import Line
    from weft import UnitOfWork
    from weft.identity import Caller

DEADLINE = "deadline"
"""The timer that ends an order which nobody decides; its key is the order's id."""


def place_order(
    work: UnitOfWork,
    order_id: str,
    user_id: str,
    *,
    lines: Sequence[Line],
    ship_to: PostalAddress,
    payment_token: str,
    patience: timedelta,
) -> Order:
    """Take an order at the prices of `lines`; from its publication on, it has `patience` to be decided."""
    order = Order.place(
        order_id=order_id,
        user_id=user_id,
        lines=lines,
        ship_to=ship_to,
        payment_token=payment_token,
        now=work.now,
    )
    work.add(store.orders, order)
    work.intend(DEADLINE, order_id, {}, after=patience, once_published=True)
    return order


def cancel_order(work: UnitOfWork, order_id: str, caller: Caller, operator_note: str = "") -> Order:
    """Cancel an order as its customer wants, or as an operator, which is written down with `operator_note`.

    An operator is an admin who says why, or whose own the order is not. What changes nothing is not written down:
    the order is cancelled already, or shipping is asked already.
    Raises `NotFound`, also for one that the caller may not see, `PermissionDenied` for a note that is not an
    admin's, and `Refused` once the order is shipped.
    """
    if operator_note and not caller.is_admin:
        raise PermissionDenied("only an admin may cancel as an operator: leave operator_note out")
    order = work.get(store.orders, order_id)
    if order is None or not caller.may_see(order.user_id):
        raise NotFound("order", order_id)
    if not operator_note and order.user_id == caller.subject:
        return change_order(work, order_id, Order.cancel)
    before = order.state
    change_order(work, order_id, partial(Order.cancel, reason=CancelReason.OPERATOR_REQUEST))
    if order.state is not before:
        work.record_action("cancel_order", order_id, operator_note, f"from {before} to {order.state}")
    return order


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
