"""Thousands of requests that the description of the commerce API allows, and that it does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.component.commerce import trading
from tests.component.fuzzing import Fuzzer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(600)
async def test_whatever_is_asked_the_answer_is_as_the_document_says(tmp_path: Path) -> None:
    async with trading(tmp_path) as shop:
        async with aiohttp.ClientSession(shop.url) as client, client.get("/openapi.json") as reply:
            document = await reply.json()
        fuzzer = Fuzzer(shop, document, valid=40, invalid=30)
        await asyncio.to_thread(fuzzer.run)
    assert not fuzzer.faults, "\n\n".join(fuzzer.faults)
