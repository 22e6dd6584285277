"""An order's states over HTTP, as they come: server-sent events of the whole system, in each way that it runs."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import aiohttp

from tests.flow.shop import PATIENCE
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.flow.shop import Shop


async def states(
    client: aiohttp.ClientSession, shop: Shop, order_id: str, last_id: str = ""
) -> AsyncGenerator[tuple[str, str], None]:
    """Yield the id and the state of each event of an order's stream."""
    headers = {"Accept": "text/event-stream", "Authorization": shop.customer}
    headers |= {"Last-Event-ID": last_id} if last_id else {}
    async with client.get(f"{shop.system.gateway}/v1/orders/{order_id}:watch", headers=headers) as reply:
        assert reply.status in (200, 204)
        place = ""
        async for line in reply.content:
            name, _, value = line.decode().strip().partition(": ")
            assert name != "event", "an error"
            if name == "id":
                place = value
            elif name == "data":
                yield place, json.loads(value)["state"].removeprefix("ORDER_STATE_")


async def test_an_orders_states_are_seen_as_they_come_and_from_where_one_was_cut_off(shop: Shop) -> None:
    order_id = await shop.order(await shop.offer(1))
    seen = [("", "")]
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as client:
        while seen[-1][1] != "CONFIRMED":  # Each time from where it was cut off.
            async with aclosing(states(client, shop, order_id, seen[-1][0])) as found:
                seen.append(await anext(found))
        await eventually(lambda: shop.dispatch(order_id), what="shipping hears of the confirmation")
        await shop.deliver(order_id)
        seen += [one async for one in states(client, shop, order_id, seen[-1][0])]
        assert [one async for one in states(client, shop, order_id, seen[-1][0])] == []
    told = [state for _, state in seen[1:]]
    assert told == [state for state in ("PENDING", "CONFIRMED", "SHIPPED", "COMPLETED") if state in told]
    assert told[-1] == "COMPLETED"
