"""The whole shop in the tests' own process: the six services and the gateway, with accounts, a product and orders."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from services.__main__ import build_all
from services.settings import Settings
from services.user.service import keys_of
from tests.component.payments import Sandbox
from weft.embedded import NatsServer, free_port
from weft.testing import eventually
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from weft import Service

COMMERCE = Path(__file__).parents[2] / "gen" / "commerce.binpb"
_CONTEXTS = ("user", "product", "order", "payment", "inventory", "shipping")
_OPERATIONS = "weftapi.v1.OperationsService"
_ADMIN = {"email": "admin@example.com", "password": "the admin's password"}
PASSWORD = "correct horse battery staple"
_OPEN: dict[str, Any] = {
    "gateway_rate_per_user": 0,
    "gateway_rate_per_address": 0,
    "jwks_url": "",
}


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
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(folder / "nats"))
        provider = Sandbox(folder)
        provider.start()
        stack.callback(provider.stop)
        admin_file = folder / "admin.json"
        admin_file.write_text(json.dumps(_ADMIN))
        environment = {
            "WEFT_NATS_URL": nats.url,
            "WEFT_PROVIDER_URL": provider.url,
            "WEFT_ADMIN_FILE": str(admin_file),
            "WEFT_JWKS_URL": "",
        }
        services = _build(folder, environment)
        for service in services:
            await service.start()
            stack.push_async_callback(service.stop)
        for service in services:
            await eventually(lambda one=service: one.ready, what=f"{service.name} is ready")
        gateway = await _front(services)
        stack.push_async_callback(gateway.stop)
        url = f"http://127.0.0.1:{gateway.port}"
        yield await _furnish(url)


def _build(folder: Path, environment: Mapping[str, str]) -> Sequence[Service]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ports: dict[str, Any] = {f"{name}_grpc_port": 0 for name in _CONTEXTS}
        # Order finds these two where it is told to.
        ports |= {f"{name}_grpc_port": free_port() for name in ("product", "user")}
        return build_all(Settings(data=folder, **ports))


async def _front(services: Sequence[Service]) -> Gateway:
    targets = {service.name: f"127.0.0.1:{service.grpc.port}" for service in services}
    backends = {f"commerce.{name}.v1.{name.capitalize()}Service": target for name, target in targets.items()}
    backends |= {f"{_OPERATIONS}/{name}": target for name, target in targets.items()}
    settings = GatewaySettings(
        gateway_descriptors=COMMERCE, gateway_backends=backends, gateway_port=0, drain_seconds=0, **_OPEN
    )
    gateway = Gateway(settings, tracing=Tracing("gateway", environ={}))
    gateway.trusts(keys_of(services[0]))
    await gateway.start()
    return gateway


async def _furnish(url: str) -> Commerce:
    """Make accounts, a product, and two orders."""
    async with aiohttp.ClientSession(url) as client:

        async def call(method: str, path: str, authorization: str, body: Any = None) -> Any:
            headers = {"Authorization": authorization} if authorization else {}
            async with client.request(method, path, json=body, headers=headers) as reply:
                made = await reply.json()
                assert reply.status == 200, made
                return made

        async def sign_in(email: str, password: str) -> dict[str, str]:
            session: dict[str, str] = await call("POST", "/v1/sessions", "", {"email": email, "password": password})
            return session

        admin = f"Bearer {(await sign_in(**_ADMIN))['accessToken']}"
        address = {"regionCode": "DE", "addressLines": ["1 Sample Street"]}
        account = {"email": "ann@example.com", "password": PASSWORD}
        user = await call("POST", "/v1/users", "", {**account, "address": address})
        session, spare = await sign_in(**account), await sign_in(**account)
        customer = f"Bearer {session['accessToken']}"
        price = {"currencyCode": "EUR", "units": "12"}
        await call("POST", "/v1/products", admin, {"sku": "mug", "title": "Mug", "price": price})

        async def state(order: Mapping[str, str]) -> str:
            return str((await call("GET", f"/v1/orders/{order['orderId']}", customer))["state"])

        async def stock() -> bool:
            async with client.get("/v1/inventory/mug", headers={"Authorization": admin}) as reply:
                return reply.status == 200

        await eventually(stock, what="inventory knows the mug")
        await call("POST", "/v1/inventory/mug:restock", admin, {"quantity": "1000"})
        wish = {"lines": [{"sku": "mug", "quantity": 1}], "paymentToken": "tok_ok"}
        prepared, ended = [await call("POST", "/v1/orders", customer, wish) for _ in range(2)]
        for order in (prepared, ended):
            await eventually(lambda one=order: _is(state(one), "ORDER_STATE_CONFIRMED"), what="the order is confirmed")
        await call("POST", f"/v1/orders/{ended['orderId']}:cancel", customer, {})
        await eventually(lambda: _is(state(ended), "ORDER_STATE_CANCELLED"), what="the order is cancelled")
    return Commerce(
        url=url,
        admin=admin,
        customer=customer,
        user_id=user["userId"],
        email=account["email"],
        refresh_token=spare["refreshToken"],
        sku="mug",
        prepared=prepared["orderId"],
        ended=ended["orderId"],
    )


async def _is(found: Any, wanted: str) -> bool:
    return bool(await found == wanted)
