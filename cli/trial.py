"""A sample order on its way: what each service says about it, and whether it should."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from commerce.inventory.v1.inventory_service_pb2 import Stock
from commerce.order.v1 import order_service_pb2 as orders
from commerce.payment.v1 import payment_service_pb2 as payments
from commerce.shipping.v1 import shipping_service_pb2 as shipping

if TYPE_CHECKING:
    from cli.samples import Sample

_UNDONE = (
    payments.PAYMENT_STATE_FAILED,
    payments.PAYMENT_STATE_REFUNDED,
    payments.PAYMENT_STATE_VOIDED,
)
_NO_SHIPMENT = (shipping.SHIPMENT_STATE_UNSPECIFIED, shipping.SHIPMENT_STATE_CANCELLED)


@dataclass(slots=True)
class Trial:
    """An order that was placed, and what is known about it so far."""

    sample: Sample
    order: orders.Order
    before: Stock
    """The level of its sku before it was placed."""
    stock: Stock = field(default_factory=Stock)
    payment: payments.Payment = field(default_factory=payments.Payment)
    shipment: shipping.Shipment = field(default_factory=shipping.Shipment)
    took: float = 0.0
    """Seconds from placing it to its latest change."""

    @property
    def decided(self) -> bool:
        """Whether the order is confirmed or cancelled."""
        return self.order.state != orders.ORDER_STATE_PENDING

    @property
    def held(self) -> int:
        """Pieces of its sku that are promised now and were not before."""
        return self.stock.reserved - self.before.reserved

    @property
    def released(self) -> bool:
        """Whether pieces were promised to it and no longer are."""
        return self.held == 0 and self.stock.revision > self.before.revision

    @property
    def settled(self) -> bool:
        """Whether every service has done its part, or undone it."""
        if self.order.state == orders.ORDER_STATE_CANCELLED:
            undone = self.payment.state in _UNDONE and self.shipment.state in _NO_SHIPMENT
            return undone and bool(self.stock.sku) and self.held == 0
        done = self.payment.state == payments.PAYMENT_STATE_COMPLETED
        prepared = self.shipment.state == shipping.SHIPMENT_STATE_PREPARED
        return done and prepared and self.held == self.order.lines[0].quantity

    @property
    def went_as_expected(self) -> bool:
        """Whether it had the outcome that the sample is about, with nothing left over."""
        return self.order.state == self.sample.outcome and self.settled
