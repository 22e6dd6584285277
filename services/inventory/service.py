"""How inventory is put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from commerce.inventory.v1.inventory_service_pb2_grpc import add_InventoryServiceServicer_to_server
from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderCreated
from commerce.product.v1.product_events_pb2 import ProductCreated
from commerce.shipping.v1.shipping_events_pb2 import ShippingDispatched
from services.inventory import handlers
from services.inventory.grpc_api import InventoryApi
from weft import Service, Subscription

if TYPE_CHECKING:
    from services.inventory.settings import Settings
    from weft import Clock


def build(settings: Settings, clock: Clock | None = None) -> Service:
    """Return inventory, ready to start."""
    service = Service(
        "inventory",
        "commerce.inventory",
        settings,
        migrations=Path(__file__).parent / "migrations",
        clock=clock,
    )
    service.serves(
        add_InventoryServiceServicer_to_server,
        InventoryApi(service.writer, service.reader),
        "commerce.inventory.v1.InventoryService",
    )
    service.subscribes(
        Subscription(ProductCreated, handlers.begin_stock),
        Subscription(OrderCreated, handlers.reserve),
        Subscription(OrderCancelled, handlers.release),
        Subscription(ShippingDispatched, handlers.ship),
    )
    return service
