"""What order does when it hears of something, or when a deadline passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.order import store
from services.order.commands import change_order
from services.order.domain import Order, ProductCopy, UserCopy
from weft import Load, UnitOfWork, loads
from weft.domain import InvalidInput, Money, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.type.money_pb2 import Money as MoneyMessage

    from commerce.inventory.v1.inventory_events_pb2 import InventoryRejected
    from commerce.payment.v1.payment_events_pb2 import PaymentFailed
    from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
    from commerce.shipping.v1.shipping_events_pb2 import (
        ShippingCancelled,
        ShippingDelivered,
        ShippingDispatched,
        ShippingPrepared,
    )
    from commerce.user.v1.user_events_pb2 import UserRegistered, UserUpdated


def order_of(order_id: str) -> Iterable[Load]:
    """Name what a deadline will touch."""
    return [(store.orders, order_id)]


def _order(event: Any) -> Iterable[Load]:
    return order_of(event.order_id)


@loads(lambda event: [(store.products, event.sku)])
def remember_product(work: UnitOfWork, event: ProductCreated | ProductUpdated) -> None:
    """Keep a copy of the product, for the times when product cannot be asked."""
    price = _money(event.price)
    product = work.get(store.products, event.sku)
    if product is None:
        new = ProductCopy(sku=event.sku, price=price, active=event.active, revision=event.revision)
        work.add(store.products, new)
    else:
        product.apply(price=price, active=event.active, revision=event.revision)


@loads(lambda event: [(store.users, event.user_id)])
def remember_user(work: UnitOfWork, event: UserRegistered | UserUpdated) -> None:
    """Keep a copy of the user's address, for the times when user cannot be asked."""
    address = event.address if event.HasField("address") else None
    user = work.get(store.users, event.user_id)
    if user is None:
        work.add(store.users, UserCopy(user_id=event.user_id, address=address, revision=event.revision))
    else:
        user.apply(address=address, revision=event.revision)


@loads(_order)
def payment_failed(work: UnitOfWork, event: PaymentFailed) -> None:
    """Cancel the order, unless it is decided already."""
    change_order(work, event.order_id, Order.payment_failed)


@loads(_order)
def stock_rejected(work: UnitOfWork, event: InventoryRejected) -> None:
    """Cancel the order, unless it is decided already."""
    change_order(work, event.order_id, Order.stock_rejected)


@loads(_order)
def shipment_prepared(work: UnitOfWork, event: ShippingPrepared) -> None:
    """Confirm the order, unless it is decided already."""
    change_order(work, event.order_id, Order.shipment_prepared)


@loads(_order)
def shipment_dispatched(work: UnitOfWork, event: ShippingDispatched) -> None:
    """The order can no longer be cancelled."""
    change_order(work, event.order_id, Order.shipment_dispatched)


@loads(_order)
def shipment_delivered(work: UnitOfWork, event: ShippingDelivered) -> None:
    """Complete the order."""
    change_order(work, event.order_id, Order.shipment_delivered)


@loads(_order)
def shipment_cancelled(work: UnitOfWork, event: ShippingCancelled) -> None:
    """Cancel the order, as its customer or an operator asked."""
    change_order(work, event.order_id, Order.shipment_cancelled)


def deadline_passed(work: UnitOfWork, order_id: str, _: Mapping[str, Any]) -> None:
    """Cancel the order, unless it is decided already."""
    change_order(work, order_id, Order.deadline_passed)


def _money(price: MoneyMessage) -> Money:
    try:
        return Money.of(price)
    except ValueError as error:
        # The same again tomorrow: not to be tried again.
        raise InvalidInput(Violation("price", str(error))) from error
