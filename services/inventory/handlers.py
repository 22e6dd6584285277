"""What inventory does when it hears of something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.inventory import domain, store
from services.inventory.domain import Line, Reservation, StockItem
from weft import Load, UnitOfWork, loads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderCreated
    from commerce.product.v1.product_events_pb2 import ProductCreated
    from commerce.shipping.v1.shipping_events_pb2 import ShippingDispatched


def _reservation_and_stock(event: OrderCreated) -> Iterable[Load]:
    return [(store.reservations, event.order_id), *((store.stock, line.sku) for line in event.lines)]


@loads(lambda event: [(store.stock, event.sku)])
def begin_stock(work: UnitOfWork, event: ProductCreated) -> None:
    """A new product begins with nothing in stock."""
    if work.get(store.stock, event.sku) is None:
        work.add(store.stock, StockItem(sku=event.sku))


@loads(_reservation_and_stock)
def reserve(work: UnitOfWork, event: OrderCreated) -> None:
    """Promise the order its lines, unless it was cancelled before."""
    if work.get(store.reservations, event.order_id) is None:
        lines = [Line(line.sku, line.quantity) for line in event.lines]
        reservation = domain.reserve(event.order_id, lines, _stock(work, lines))
        work.add(store.reservations, reservation)


@loads(lambda event: [(store.reservations, event.order_id)])
def release(work: UnitOfWork, event: OrderCancelled) -> None:
    """Give back what the order holds; if it is not known yet, see that it never holds anything."""
    reservation = work.get(store.reservations, event.order_id)
    if reservation is None:
        work.add(store.reservations, Reservation.void(event.order_id))
    else:
        domain.release(reservation, _stock(work, reservation.lines))


@loads(lambda event: [(store.reservations, event.order_id)])
def ship(work: UnitOfWork, event: ShippingDispatched) -> None:
    """What the order holds has left the warehouse."""
    reservation = work.get(store.reservations, event.order_id)
    if reservation is not None:
        domain.ship(reservation, _stock(work, reservation.lines))


def _stock(work: UnitOfWork, lines: Iterable[Line]) -> dict[str, StockItem | None]:
    return {line.sku: work.get(store.stock, line.sku) for line in lines}
