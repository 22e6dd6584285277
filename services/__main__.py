"""`python -m services` hosts all services in one process, and the gateway too if it is given descriptors."""

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
from services.user.service import build as build_user
from services.user.service import keys_of
from services.user.settings import Settings as UserSettings
from weft import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.gateway import Gateway
    from weft import Service


def build_all(settings: Settings) -> Sequence[Service]:
    """Return the six services, ready to start.

    Those that are not told where to get the issuer's keys have them from user, beside them.
    """
    user = build_user(UserSettings(**settings.of("user")))
    others = [
        build_product(ProductSettings(**settings.of("product"))),
        build_order(
            OrderSettings(
                product_address=settings.where_product_is, user_address=settings.where_user_is, **settings.of("order")
            )
        ),
        build_payment(PaymentSettings(**settings.of("payment"))),
        build_inventory(InventorySettings(**settings.of("inventory"))),
        build_shipping(ShippingSettings(**settings.of("shipping"))),
    ]
    for one in others:
        if not one.settings.jwks_url:
            one.trusts(keys_of(user))
    return [user, *others]


def build_gateway(settings: Settings, user: Service) -> Sequence[Gateway]:
    """Return the gateway, if one is wanted; like the services, it may have the issuer's keys from user."""
    if not settings.gateway_descriptors:
        return []
    from gateway.gateway import Gateway
    from gateway.settings import GatewaySettings

    gateway = Gateway(GatewaySettings())
    gateway.trusts(keys_of(user))
    return [gateway]


def build_process() -> Sequence[Service | Gateway]:
    """Return everything that this process hosts."""
    settings = Settings()
    services = build_all(settings)
    return [*services, *build_gateway(settings, services[0])]


if __name__ == "__main__":
    run(build_process)
