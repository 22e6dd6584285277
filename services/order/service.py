"""How order is put together."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from commerce.inventory.v1.inventory_events_pb2 import InventoryRejected
from commerce.order.v1.order_service_pb2_grpc import add_OrderServiceServicer_to_server
from commerce.payment.v1.payment_events_pb2 import PaymentFailed
from commerce.product.v1 import product_service_pb2
from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingCancelled,
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from commerce.user.v1 import user_service_pb2
from commerce.user.v1.user_events_pb2 import UserRegistered, UserUpdated
from commerce.user.v1.user_service_pb2_grpc import UserServiceStub
from services.order import handlers
from services.order.addresses import AddressBook
from services.order.catalogue import Catalogue
from services.order.commands import DEADLINE
from services.order.grpc_api import OrderApi
from weft import Service, Subscription, Timer, connect

if TYPE_CHECKING:
    from services.order.settings import Settings
    from weft import Clock


def build(settings: Settings, clock: Clock | None = None) -> Service:
    """Return order, ready to start."""
    service = Service("order", "commerce.order", settings, migrations=Path(__file__).parent / "migrations", clock=clock)
    products = product_service_pb2.DESCRIPTOR.services_by_name["ProductService"]
    product = connect(settings.product_address, tracing=service.tracing, services=[products], attempts=3)
    service.closes(product.close)
    users = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
    user = connect(settings.user_address, tracing=service.tracing, services=[users], attempts=3)
    service.closes(user.close)
    api = OrderApi(
        service.writer,
        service.reader,
        Catalogue(ProductServiceStub(product), service.reader),
        AddressBook(UserServiceStub(user), service.reader),
        service.changes,
        service.grpc.draining,
        timedelta(seconds=settings.order_deadline),
    )
    service.serves(add_OrderServiceServicer_to_server, api, "commerce.order.v1.OrderService")
    service.subscribes(
        Subscription(ProductCreated, handlers.remember_product),
        Subscription(ProductUpdated, handlers.remember_product),
        Subscription(UserRegistered, handlers.remember_user),
        Subscription(UserUpdated, handlers.remember_user),
        Subscription(PaymentFailed, handlers.payment_failed),
        Subscription(InventoryRejected, handlers.stock_rejected),
        Subscription(ShippingPrepared, handlers.shipment_prepared),
        Subscription(ShippingDispatched, handlers.shipment_dispatched),
        Subscription(ShippingDelivered, handlers.shipment_delivered),
        Subscription(ShippingCancelled, handlers.shipment_cancelled),
    )
    service.acts_on(Timer(DEADLINE, fire=handlers.deadline_passed, loads=handlers.order_of, after_streams=True))
    return service
