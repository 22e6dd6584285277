"""The system as docker-compose.yml describes it: with its commands, its environment, its secrets and its databases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest

from tests.component.compose import ours
from tests.flow.containers import Containers
from weft.testing import eventually

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = {"regionCode": "CH", "addressLines": ["Bahnhofstrasse 1", "8001 Zürich"]}
EMAIL, PASSWORD = "ann@shop.example", "correct horse battery"


class Client:
    """Somebody who calls the gateway."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self.token = ""

    async def ask(self, method: str, path: str, document: object = None) -> Any:
        """Return the answer to a request that must succeed."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        async with self._http.request(method, self._url + path, json=document, headers=headers) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            return body

    async def sign_in(self, email: str, password: str) -> None:
        """Begin a session, to which later requests belong."""
        session = await self.ask("POST", "/v1/sessions", {"email": email, "password": password})
        self.token = session["accessToken"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that PostgreSQL can enter, which may have to run as another user."""
    tmp_path.chmod(0o711)
    return tmp_path


@pytest.mark.timeout(180)
async def test_an_order_goes_through_the_containers(folder: Path) -> None:
    async with Containers(folder) as system:
        async with aiohttp.ClientSession() as http:
            admin, ann = Client(http, system.gateway), Client(http, system.gateway)
            await admin.sign_in(**json.loads(system.secret("admin")))
            price = {"currencyCode": "EUR", "units": "12", "nanos": 500_000_000}
            await admin.ask("POST", "/v1/products", {"sku": "mug", "title": "A mug", "price": price})
            await eventually(lambda: admin.ask("POST", "/v1/inventory/mug:restock", {"quantity": 3}))
            await ann.ask("POST", "/v1/users", {"email": EMAIL, "password": PASSWORD, "address": ADDRESS})
            await ann.sign_in(EMAIL, PASSWORD)
            wanted = {"lines": [{"sku": "mug", "quantity": 2}], "paymentToken": "tok_ok"}
            placed = await ann.ask("POST", "/v1/orders", wanted)

            async def confirmed() -> bool:
                order = await ann.ask("GET", f"/v1/orders/{placed['orderId']}")
                return bool(order["state"] == "ORDER_STATE_CONFIRMED")

            await eventually(confirmed, 30, "the order is confirmed")
        assert no_role_reaches_another_database(system)
        codes = await system.stop()
        assert {name: code for name, code in codes.items() if name in ours()} == dict.fromkeys(ours(), 0)
        # The request for the order, and what order asked of others before it took it.
        assert {"gateway", "order", "product", "user"} in system.collector.services.values()


def no_role_reaches_another_database(system: Containers) -> bool:
    """Check that PostgreSQL refuses wrong passwords and foreign databases; return whether it does."""
    url = system.database_url("order")
    psycopg.connect(url).close()
    for wrong in (url.replace("://order:", "://order:x"), url.replace("/order?", "/payment?")):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(wrong)
    return True
