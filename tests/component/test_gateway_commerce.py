"""The gateway in front of product as it is: descriptors of the shop, real tokens, a real database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest_asyncio

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from services.product.service import build
from services.product.settings import Settings
from tests.component.callers import bearer
from tests.component.support import running
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMERCE = Path(__file__).parents[2] / "gen" / "commerce.binpb"
PRODUCT = "commerce.product.v1.ProductService"
PRICE = {"currencyCode": "EUR", "units": "12", "nanos": 500_000_000}
Answer = tuple[int, Any]


class Shop:
    """The catalogue over REST."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client

    async def call(
        self, method: str, path: str, body: Any = None, role: str = "", sent: dict[str, str] | None = None
    ) -> Answer:
        """Make a request as somebody with this role, or as nobody, with `sent` headers; return status and JSON."""
        headers = {"Authorization": bearer("ann", role)} if role else {}
        async with self._client.request(method, path, json=body, headers=headers | (sent or {})) as reply:
            return reply.status, await reply.json() if reply.status != 304 else None


@pytest_asyncio.fixture
async def shop(tmp_path: Path, nats_url: str) -> AsyncIterator[Shop]:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'product.db'}", nats_url=nats_url)
    async with running(build(settings)) as product:
        fronting = GatewaySettings(
            gateway_descriptors=COMMERCE,
            gateway_backends={PRODUCT: f"127.0.0.1:{product.grpc.port}"},
            gateway_port=0,
            drain_seconds=0,
        )
        gateway = Gateway(fronting, tracing=Tracing("gateway", environ={}))
        try:
            await gateway.start()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
                yield Shop(client)
        finally:
            await gateway.stop()


def reason(answer: Answer) -> tuple[int, str]:
    """Return the status and the reason of an error."""
    status, error = answer
    return status, next(one["reason"] for one in error["details"] if one["@type"].endswith("ErrorInfo"))


async def test_a_product_is_added_changed_and_read_over_rest(shop: Shop) -> None:
    status, added = await shop.call("POST", "/v1/products", {"sku": "mug", "title": "Mug", "price": PRICE}, "admin")
    assert (status, added["sku"], added["price"], added["revision"]) == (200, "mug", PRICE, "1")
    status, changed = await shop.call("PATCH", "/v1/products/mug", {"title": "Cup"}, "admin")
    assert (status, changed["title"], changed["price"], changed["revision"]) == (200, "Cup", PRICE, "2")
    assert await shop.call("GET", "/v1/products/mug") == (200, changed)
    assert await shop.call("GET", "/v1/products?pageSize=5") == (200, {"products": [changed], "nextPageToken": ""})


async def test_a_change_is_made_only_to_what_the_client_saw(shop: Shop) -> None:
    _, mug = await shop.call("POST", "/v1/products", {"sku": "mug", "title": "Mug", "price": PRICE}, "admin")
    status, cup = await shop.call("PATCH", "/v1/products/mug", {"title": "Cup"}, "admin", {"If-Match": mug["etag"]})
    assert (status, cup["title"]) == (200, "Cup")
    late = await shop.call("PATCH", "/v1/products/mug", {"title": "Jug"}, "admin", {"If-Match": mug["etag"]})
    assert reason(late) == (412, "ETAG_MISMATCH")
    assert await shop.call("GET", "/v1/products/mug") == (200, cup)
    assert await shop.call("GET", "/v1/products/mug", sent={"If-None-Match": cup["etag"]}) == (304, None)
    assert await shop.call("GET", "/v1/products/mug", sent={"If-None-Match": mug["etag"]}) == (200, cup)


async def test_who_may_not_is_told_why(shop: Shop) -> None:
    product = {"sku": "mug", "title": "Mug", "price": PRICE}
    status, error = await shop.call("POST", "/v1/products", product)
    assert (status, error["code"]) == (401, 16)
    assert (await shop.call("POST", "/v1/products", product, "customer"))[0] == 403
    assert reason(await shop.call("GET", "/v1/products/mug")) == (404, "NOT_FOUND")
    assert reason(await shop.call("GET", "/v1/product/mug")) == (404, "ROUTE_NOT_FOUND")


async def test_what_product_finds_wrong_has_the_names_that_the_client_used(shop: Shop) -> None:
    wrong = {"sku": "no.dots", "title": "Mug", "price": PRICE | {"currencyCode": "euro"}}
    status, error = await shop.call("POST", "/v1/products", wrong, "admin")
    violations = next(one["fieldViolations"] for one in error["details"] if "fieldViolations" in one)
    assert (status, {one["field"] for one in violations}) == (400, {"sku", "price"})
    assert "product." not in error["message"]
    status, error = await shop.call("PATCH", "/v1/products/mug", {"revision": "7"}, "admin")
    assert error["message"].startswith("updateMask: names 'revision'")


async def test_what_has_no_annotation_is_not_served(shop: Shop) -> None:
    _, index = await shop.call("GET", "/")
    assert {one["rpc"] for one in index["routes"]} == {
        f"{PRODUCT}/{name}" for name in ("CreateProduct", "UpdateProduct", "GetProduct", "ListProducts")
    }
