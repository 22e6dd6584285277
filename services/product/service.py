"""How product is put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from commerce.product.v1.product_service_pb2_grpc import add_ProductServiceServicer_to_server
from services.product.grpc_api import ProductApi
from weft import Service

if TYPE_CHECKING:
    from services.product.settings import Settings
    from weft import Clock


def build(settings: Settings, clock: Clock | None = None) -> Service:
    """Return product, ready to start."""
    service = Service(
        "product", "commerce.product", settings, migrations=Path(__file__).parent / "migrations", clock=clock
    )
    service.serves(
        add_ProductServiceServicer_to_server,
        ProductApi(service.writer, service.reader),
        "commerce.product.v1.ProductService",
    )
    return service
