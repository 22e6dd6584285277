"""Several instances of a service are as good as one that never stops, whichever of them dies or stands still."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.flow.traffic import Traffic
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.flow.shop import Shop
    from tests.flow.systems import WholeSystem

pytestmark = pytest.mark.timeout(300)
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _on_postgres(mode: str) -> None:
    if mode != "postgres":
        pytest.skip("there is one instance of each service")


def holders(system: WholeSystem, service: str) -> set[str]:
    """Return the processes that hold a lease of a service."""
    names = dict(zip((f"{service}-{n}" for n in (1, 2)), system.instances(service), strict=True))
    engine = create_engine(system.database_url(service), poolclass=NullPool)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT DISTINCT holder FROM leases WHERE holder <> ''")).scalars()
        return {names[holder] for holder in found}


async def are_restarted(system: WholeSystem, before: Mapping[str, int]) -> None:
    """Return when each of these processes is another one, and everything is ready."""
    for name, pid in before.items():
        await system.restarted(name, pid)


async def test_killing_each_instance_in_turn_while_orders_are_placed_loses_none(shop: Shop) -> None:
    system = shop.system
    async with Traffic(shop) as traffic:
        for victims in zip(*map(system.instances, system.scale), strict=True):
            before = {name: system.pid(name) for name in victims}
            for victim in victims:
                traffic.rush()
                await traffic.more()
                system.send(victim, signal.SIGKILL)
                await traffic.more()
            await are_restarted(system, before)
    await traffic.check()


async def test_all_instances_of_a_service_that_are_killed_at_once_lose_nothing(shop: Shop) -> None:
    system = shop.system
    async with Traffic(shop) as traffic:
        before = {name: system.pid(name) for service in system.scale for name in system.instances(service)}
        for service in system.scale:
            traffic.rush()
            await traffic.more()
            for name in system.instances(service):
                system.send(name, signal.SIGKILL)
        await are_restarted(system, before)
        await traffic.more()
    await traffic.check()


async def test_an_instance_that_stands_still_is_replaced_and_does_no_harm_when_it_wakes(shop: Shop) -> None:
    system = shop.system
    async with Traffic(shop) as traffic:
        for service in system.scale:
            look = partial(holders, system, service)
            paused = min(await eventually(look, PATIENCE, f"an instance of {service} holds leases"))
            with system.paused(paused):
                traffic.rush()
                await eventually(partial(is_replaced, system, service, paused), PATIENCE, f"{paused} is replaced")
            await traffic.more()
    await traffic.check()


def is_replaced(system: WholeSystem, service: str, name: str) -> bool:
    """Whether another instance holds every lease that there is."""
    return name not in holders(system, service)


async def test_the_other_instance_takes_over_from_one_that_is_told_to_stop_before_it_is_missed(shop: Shop) -> None:
    system = shop.system
    async with Traffic(shop) as traffic:
        stopped = [min(holders(system, service)) for service in system.scale]
        before = {name: system.pid(name) for name in stopped}
        for name in stopped:
            traffic.rush()
            system.send(name, signal.SIGTERM)
            await traffic.more()
        await are_restarted(system, before)
    await traffic.check()


async def test_a_database_that_is_killed_comes_back_with_every_order(shop: Shop) -> None:
    system = shop.system
    async with Traffic(shop) as traffic:
        before = system.pid("postgres")
        traffic.rush()
        await traffic.more()
        system.send("postgres", signal.SIGKILL)
        await system.restarted("postgres", before)
        await traffic.more()
    await traffic.check()
