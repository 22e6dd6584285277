"""How payment is put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderCreated
from commerce.payment.v1.payment_service_pb2_grpc import add_PaymentServiceServicer_to_server
from services.payment import handlers
from services.payment.grpc_api import PaymentApi
from services.payment.promises import Cashier
from services.payment.provider import Provider
from weft import Service, Subscription

if TYPE_CHECKING:
    from services.payment.settings import Settings
    from weft import Clock


def build(settings: Settings, clock: Clock | None = None) -> Service:
    """Return payment, ready to start."""
    service = Service(
        "payment", "commerce.payment", settings, migrations=Path(__file__).parent / "migrations", clock=clock
    )
    provider = Provider(settings.provider_url, timeout=settings.provider_timeout, connections=settings.intents_at_once)
    service.closes(provider.close)
    service.serves(
        add_PaymentServiceServicer_to_server,
        PaymentApi(service.reader),
        "commerce.payment.v1.PaymentService",
    )
    service.subscribes(
        Subscription(OrderCreated, handlers.request),
        Subscription(OrderCancelled, handlers.cancel),
    )
    service.acts_on(*Cashier(provider, service.tracing).intents())
    return service
