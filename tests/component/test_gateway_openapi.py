"""What the gateway says of the commerce API, held against it: all services are there, and a browser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from tests.browser import browsing
from tests.component.commerce import trading
from tests.component.fuzzing import Fuzzer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.component.commerce import Commerce

_PRODUCTS = "document.querySelector('#operations-ProductService-ProductService_ListProducts')"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Commerce]:
    async with trading(tmp_path_factory.mktemp("commerce")) as shop:
        yield shop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(shop: Commerce) -> dict[str, Any]:
    async with aiohttp.ClientSession(shop.url) as client, client.get("/openapi.json") as reply:
        made: dict[str, Any] = await reply.json()
        return made


async def test_every_operation_answers_as_the_document_says(shop: Commerce, document: dict[str, Any]) -> None:
    fuzzer = Fuzzer(shop, document, valid=3, invalid=2)
    await asyncio.to_thread(fuzzer.run)
    assert not fuzzer.faults, "\n\n".join(fuzzer.faults)
    served = {name for name, statuses in fuzzer.statuses.items() if any(200 <= one < 300 for one in statuses)}
    assert len(served) > len(fuzzer.statuses) / 2, sorted(fuzzer.statuses.keys() - served)


async def test_a_browser_shows_every_operation_and_tries_one_with_nothing_from_another_site(
    shop: Commerce, document: dict[str, Any]
) -> None:
    operations = [name for item in document["paths"].values() for name in item]
    async with browsing() as browser:
        page = await browser.open(shop.url)
        await page.until(f"document.querySelectorAll('.opblock').length == {len(operations)}")
        assert await page.evaluate("location.pathname") == "/docs"
        for step in ("button.opblock-summary-control", "button.try-out__btn", "button.execute"):
            await page.until(f"{_PRODUCTS}.querySelector({step!r}) !== null")
            await page.evaluate(f"{_PRODUCTS}.querySelector({step!r}).click()")
        shown = await page.until(f"{_PRODUCTS}.querySelector('.live-responses-table .highlight-code')?.innerText")
        assert '"sku": "mug"' in shown
        assert page.errors == []
        assert page.foreign == []
