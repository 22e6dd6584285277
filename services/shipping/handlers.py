"""What shipping does when it hears of something.

The first that it hears of an order begins the order's shipment, whatever it is: a set-aside event may come
after its successors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from services.shipping import store
from services.shipping.domain import Line, Shipment
from weft import Load, UnitOfWork, loads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from commerce.inventory.v1.inventory_events_pb2 import InventoryReserved
    from commerce.order.v1.order_events_pb2 import (
        OrderCancelled,
        OrderCancelRequested,
        OrderConfirmed,
        OrderCreated,
    )
    from commerce.payment.v1.payment_events_pb2 import PaymentCompleted


class _OfOrder(Protocol):
    @property
    def order_id(self) -> str: ...


def _shipment_of(event: _OfOrder) -> Iterable[Load]:
    return [(store.shipments, event.order_id)]


@loads(_shipment_of)
def expect(work: UnitOfWork, event: OrderCreated) -> None:
    """Note what is to go where."""
    lines = [Line(line.sku, line.quantity) for line in event.lines]
    _shipment(work, event).order_created(lines, event.ship_to, event.user_id, work.now)


@loads(_shipment_of)
def note_payment(work: UnitOfWork, event: PaymentCompleted) -> None:
    """Prepare the shipment, if this was the last thing that it waited for."""
    _shipment(work, event).payment_completed(work.now)


@loads(_shipment_of)
def note_stock(work: UnitOfWork, event: InventoryReserved) -> None:
    """Prepare the shipment, if this was the last thing that it waited for."""
    _shipment(work, event).inventory_reserved(work.now)


@loads(_shipment_of)
def allow_dispatch(work: UnitOfWork, event: OrderConfirmed) -> None:
    """Refuse a dispatch no longer."""
    _shipment(work, event).order_confirmed(work.now)


@loads(_shipment_of)
def decide_cancel(work: UnitOfWork, event: OrderCancelRequested) -> None:
    """Stop the shipment and say so, unless it is dispatched."""
    _shipment(work, event).cancel_requested(work.now)


@loads(_shipment_of)
def cancel(work: UnitOfWork, event: OrderCancelled) -> None:
    """Stop the shipment; if the order is not known yet, see that nothing is ever shipped."""
    _shipment(work, event).order_cancelled(event.user_id, work.now)


def _shipment(work: UnitOfWork, event: _OfOrder) -> Shipment:
    shipment = work.get(store.shipments, event.order_id)
    if shipment is None:
        shipment = Shipment.expect(event.order_id, work.now)
        work.add(store.shipments, shipment)
    return shipment
