"""`python -m services` hosts all five services in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.inventory.service import build as build_inventory
from services.inventory.settings import Settings as InventorySettings
from services.order.service import build as build_order
from services.order.settings import Settings as OrderSettings
from services.payment.service import build as build_payment
from services.payment.settings import Settings as PaymentSettings
from services.product.service import build as build_product
from services.product.settings import Settings as ProductSettings
from services.settings import Settings
from services.shipping.service import build as build_shipping
from services.shipping.settings import Settings as ShippingSettings
from weft import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft import Service


def build_all(settings: Settings) -> Sequence[Service]:
    """Return the five services, ready to start."""
    return [
        build_product(ProductSettings(**settings.of("product"))),
        build_order(OrderSettings(product_address=settings.where_product_is, **settings.of("order"))),
        build_payment(PaymentSettings(**settings.of("payment"))),
        build_inventory(InventorySettings(**settings.of("inventory"))),
        build_shipping(ShippingSettings(**settings.of("shipping"))),
    ]


if __name__ == "__main__":
    run(lambda: build_all(Settings()))
