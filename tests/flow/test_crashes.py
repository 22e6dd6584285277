"""Whatever ends, and however: no accepted order is lost, and every order ends as it has to."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.flow.audit import audit
from tests.flow.shop import Shop, state_of
from tests.flow.systems import SERVICES, is_alive
from tests.flow.traffic import Traffic
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.flow.systems import WholeSystem

pytestmark = pytest.mark.timeout(300)


async def test_killing_any_process_while_orders_are_placed_loses_none(shop: Shop) -> None:
    system = shop.system
    if not (system.one_process or system.postgres):
        pytest.skip("test_chaos.py kills each of these")
    hosts = ["order"] if system.one_process else SERVICES
    async with Traffic(shop) as traffic:
        for victim in ("nats-server", "sandbox", *hosts):
            before, refused = system.pid(victim), len(traffic.refused)
            traffic.rush()
            await traffic.more()
            system.send(victim, signal.SIGKILL)
            await system.restarted(victim, before)
            await traffic.more()
            assert victim == "order" or not traffic.refused[refused:], f"refused while {victim} was away"
            assert f"(pid {before}) was killed by SIGKILL" in system.said
    await traffic.check()


async def test_a_broker_that_is_restarted_in_the_middle_of_things_loses_nothing(shop: Shop) -> None:
    system = shop.system
    async with Traffic(shop) as traffic:
        before = system.pid("nats-server")
        traffic.rush()
        await traffic.more()
        system.send("nats-server", signal.SIGTERM)
        await system.restarted("nats-server", before)
        await traffic.more()
    assert not traffic.refused
    await traffic.check()


async def place_some_of_all_kinds(shop: Shop) -> dict[str, str]:
    """Place orders at once and wait for none; return how each has to end."""
    sku = await shop.offer(100)
    tokens = ["tok_ok", "tok_declined", "tok_slow", "tok_timeout"] * 4
    placed = await asyncio.gather(*(shop.order(sku, token) for token in tokens))
    ends = {"tok_declined": "CANCELLED"}
    return {order_id: ends.get(token, "CONFIRMED") for order_id, token in zip(placed, tokens, strict=True)}


async def all_ended(system: WholeSystem, placed: dict[str, str]) -> None:
    """Check that the orders ended as they have to, with clients that were not there before."""
    async with Shop(system) as shop:
        books = await audit(shop)
        assert {order_id: state_of(books.orders[order_id]) for order_id in placed} == placed


async def test_a_system_that_is_stopped_in_the_middle_of_things_goes_on_where_it_stopped(shop: Shop) -> None:
    system = shop.system
    placed = await place_some_of_all_kinds(shop)
    processes = system.pids()
    assert await asyncio.to_thread(system.stop) == 0
    assert not any(map(is_alive, processes))
    await system.start()
    await all_ended(system, placed)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
async def test_processes_end_with_a_supervisor_that_was_killed_and_the_next_one_goes_on(shop: Shop) -> None:
    system = shop.system
    placed = await place_some_of_all_kinds(shop)
    system.kill_supervisor()
    await eventually(lambda: not system.still_alive(), 30, "every process has ended")
    await system.start()
    await all_ended(system, placed)
