"""How shipping is put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from commerce.inventory.v1.inventory_events_pb2 import InventoryReserved
from commerce.order.v1.order_events_pb2 import (
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderCreated,
)
from commerce.payment.v1.payment_events_pb2 import PaymentCompleted
from commerce.shipping.v1.shipping_service_pb2_grpc import add_ShippingServiceServicer_to_server
from services.shipping import handlers
from services.shipping.grpc_api import ShippingApi
from weft import Service, Subscription

if TYPE_CHECKING:
    from services.shipping.settings import Settings
    from weft import Clock


def build(settings: Settings, clock: Clock | None = None) -> Service:
    """Return shipping, ready to start."""
    service = Service(
        "shipping",
        "commerce.shipping",
        settings,
        migrations=Path(__file__).parent / "migrations",
        clock=clock,
    )
    service.serves(
        add_ShippingServiceServicer_to_server,
        ShippingApi(service.writer, service.reader),
        "commerce.shipping.v1.ShippingService",
    )
    service.subscribes(
        Subscription(OrderCreated, handlers.expect),
        Subscription(PaymentCompleted, handlers.note_payment),
        Subscription(InventoryReserved, handlers.note_stock),
        Subscription(OrderConfirmed, handlers.allow_dispatch),
        Subscription(OrderCancelRequested, handlers.decide_cancel),
        Subscription(OrderCancelled, handlers.cancel),
    )
    return service
