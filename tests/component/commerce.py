"""The whole shop with accounts, a product and orders in it, for what calls all of its operations."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.component.callers import bearer
from tests.component.whole import PASSWORD, whole_shop
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.component.whole import WholeShop

_SKU = "mug"


@dataclass(frozen=True, slots=True)
class Commerce:
    """The shop as it runs."""

    url: str
    admin: str
    """The `authorization` of its admin."""
    customer: str
    """The `authorization` of a customer."""
    user_id: str
    """Who the customer is."""
    email: str
    refresh_token: str
    """Of a session of the customer's, which nobody needs."""
    sku: str
    prepared: str
    """The id of an order of the customer's whose shipment can be dispatched."""
    ended: str
    """The id of one that is cancelled."""


@asynccontextmanager
async def trading(folder: Path) -> AsyncIterator[Commerce]:
    """Run the shop, with its data in `folder`, and stop it at the end."""
    async with whole_shop(folder) as shop:
        user_id, _ = await asyncio.gather(shop.register("ann"), shop.stock(_SKU))
        email, customer = "ann@example.com", bearer(user_id, "customer")
        status, session = await shop.ask("POST", "/v1/sessions", {"email": email, "password": PASSWORD})
        assert status == 200, session
        prepared, ended = [await shop.order(user_id, _SKU) for _ in range(2)]

        async def asked(path: str, method: str = "GET", body: Any = None) -> Any:
            status, order = await shop.ask(method, f"/v1/orders/{path}", body, customer)
            assert status == 200, order
            return order["state"]

        async def reaches(order_id: str, state: str) -> None:
            async def reached() -> bool:
                return bool(await asked(order_id) == state)

            await eventually(reached, what=f"the order is {state}")

        for order_id in (prepared, ended):
            await reaches(order_id, "ORDER_STATE_CONFIRMED")
        await asked(f"{ended}:cancel", "POST", {})
        await reaches(ended, "ORDER_STATE_CANCELLED")
        yield Commerce(
            url=_url(shop),
            admin=bearer(),
            customer=customer,
            user_id=user_id,
            email=email,
            refresh_token=session["refreshToken"],
            sku=_SKU,
            prepared=prepared,
            ended=ended,
        )


def _url(shop: WholeShop) -> str:
    return f"http://127.0.0.1:{shop.gateway.port}"
