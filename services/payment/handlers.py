"""What payment does when it hears of something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.payment import promises, store
from services.payment.domain import Payment
from weft import Load, UnitOfWork, loads
from weft.domain import InvalidInput, Money, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderCreated


def _payment_of(event: OrderCreated | OrderCancelled) -> Iterable[Load]:
    return [(store.payments, event.order_id)]


@loads(_payment_of)
def request(work: UnitOfWork, event: OrderCreated) -> None:
    """Promise to charge the order's total, unless it was cancelled before."""
    amount = _total(event)
    if _payment(work, event.order_id).request(amount, event.user_id):
        promises.charge(work, event.order_id, amount, event.payment_token)


@loads(_payment_of)
def cancel(work: UnitOfWork, event: OrderCancelled) -> None:
    """Promise to refund what was charged; if the order is not known yet, see that it is never charged."""
    payment = _payment(work, event.order_id)
    if payment.cancel(event.user_id):
        promises.refund(work, event.order_id, payment.charge_reference)


def _payment(work: UnitOfWork, order_id: str) -> Payment:
    payment = work.get(store.payments, order_id)
    if payment is None:
        payment = Payment(order_id=order_id)
        work.add(store.payments, payment)
    return payment


def _total(event: OrderCreated) -> Money:
    try:
        return Money.of(event.total)
    except ValueError as error:
        raise InvalidInput(Violation("total", str(error))) from error
