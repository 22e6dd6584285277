"""The whole shop in the process of the tests: six services and a gateway in front of them, on a broker of their own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from services.__main__ import build_all
from services.settings import Settings
from tests.component.callers import bearer, issuer
from tests.component.payments import Sandbox
from tests.component.support import running
from weft.embedded import NatsServer
from weft.testing import eventually, free_port
from weft.tokens import fetch_from
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from weft import Service

DESCRIPTORS = Path(__file__).parents[2] / "gen" / "commerce.binpb"
OPERATIONS = "weftapi.v1.OperationsService"
ADDRESS = {"regionCode": "CH", "addressLines": ["Bahnhofstrasse 1"]}
PASSWORD = "correct horse"


@dataclass(frozen=True, slots=True)
class WholeShop:
    """The shop, and clients of its gateway and of its services."""

    services: Mapping[str, Service]
    gateway: Gateway
    client: aiohttp.ClientSession
    channels: Mapping[str, grpc.aio.Channel]
    """Plain ones, by the service."""

    async def ask(
        self, method: str, path: str, body: Any = None, authorization: str = "", **headers: str
    ) -> tuple[int, Any]:
        """Make a request; return status and JSON. Of a stream, the first line."""
        sent = headers | ({"Authorization": authorization} if authorization else {})
        async with self.client.request(method, path, json=body, headers=sent) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.content.readline()

    async def register(self, name: str) -> str:
        """Open an account with an address; return the user's id."""
        account = {"email": f"{name}@example.com", "password": PASSWORD, "address": ADDRESS}
        status, user = await self.ask("POST", "/v1/users", account)
        assert status == 200, user
        return str(user["userId"])

    async def stock(self, sku: str) -> None:
        """Offer a product of which there is plenty."""
        product = {"sku": sku, "title": sku, "price": {"currencyCode": "EUR", "units": "12"}}
        status, answer = await self.ask("POST", "/v1/products", product, bearer())
        assert status == 200, answer

        async def restocked() -> bool:
            status, _ = await self.ask("POST", f"/v1/inventory/{sku}:restock", {"quantity": 1000}, bearer())
            return status == 200

        await eventually(restocked, what=f"inventory knows {sku}")

    async def order(self, user_id: str, sku: str) -> str:
        """Place an order; return its id."""
        body = {"lines": [{"sku": sku, "quantity": 1}], "paymentToken": "tok_ok"}
        status, order = await self.ask("POST", "/v1/orders", body, bearer(user_id, "customer"))
        assert status == 200, order
        return str(order["orderId"])


@asynccontextmanager
async def whole_shop(folder: Path) -> AsyncIterator[WholeShop]:
    """Run it within the `with`; everything is ready."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(folder / "nats"))
        sandbox = Sandbox(folder)
        sandbox.start()
        stack.callback(sandbox.stop)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("WEFT_NATS_URL", nats.url)
            environment.setenv("WEFT_PROVIDER_URL", sandbox.url)
            environment.setenv("WEFT_JWKS_URL", issuer().jwks_url)
            environment.setenv("WEFT_DRAIN_SECONDS", "0")
            ports: dict[str, Any] = {f"{name}_grpc_port": free_port() for name in ("user", "product")}
            ports |= {f"{name}_grpc_port": 0 for name in ("order", "payment", "inventory", "shipping")}
            built = build_all(Settings(data=folder, **ports))
        built[0].trusts(fetch_from(issuer().jwks_url))  # User would trust none but itself.
        await asyncio.gather(*(stack.enter_async_context(running(one)) for one in built))
        services = {one.name: one for one in built}
        gateway = _gateway({name: f"127.0.0.1:{one.grpc.port}" for name, one in services.items()})
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{one.grpc.port}"))
            for name, one in services.items()
        }
        client = aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}")
        yield WholeShop(services, gateway, await stack.enter_async_context(client), channels)


def _gateway(addresses: Mapping[str, str]) -> Gateway:
    backends = {f"commerce.{name}.v1.{name.title()}Service": address for name, address in addresses.items()}
    backends |= {f"{OPERATIONS}/{name}": address for name, address in addresses.items()}
    settings = GatewaySettings(
        gateway_descriptors=DESCRIPTORS,
        gateway_backends=backends,
        gateway_port=0,
        jwks_url=issuer().jwks_url,
        gateway_rate_per_user=0,
        gateway_rate_per_address=0,
        drain_seconds=0,
    )
    return Gateway(settings, tracing=Tracing("gateway", environ={}))
