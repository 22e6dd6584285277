"""Every crash point: whatever a process dies before or after, nothing is lost and nothing is done twice."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.component.chassis.swept import SweptToy
from tests.component.chassis.world import Feed, Rows, World
from tests.flow.swept import SweptSystem
from tests.sweep import Sweep
from weft.testing import nats_server, postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(3600)
MOST_VISITS = 12
"""The cap for one service, of which a run takes seconds; that of the whole system is the sweep's own."""
_BY_THE_CLOCK = {("user-1", f"commit of Intents.settle: {moment}") for moment in ("before", "after")}
"""What a process comes by only when it has lived for ten minutes: user's timer to keep house, its only intent."""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_service_may_die_at_every_point_of_the_chassis(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'toy'}.db"
        if database == "postgres":
            url = await (await stack.enter_async_context(postgres())).create_database("toy")
        broker = await stack.enter_async_context(nats_server())
        feed = await stack.enter_async_context(Feed(broker.url))
        world = World(url, broker, tmp_path, feed, Rows(url))
        try:
            swept = SweptToy(world)
            async with swept.running():
                await sweep(Sweep(swept, most_visits=MOST_VISITS), capsys)
        finally:
            for process in world.processes:
                process.stop()


async def test_each_service_may_die_at_every_point_of_an_orders_flow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scout, swept = SweptSystem(tmp_path / "scout"), SweptSystem(tmp_path / "swept")
    try:
        await scout.system.start()
        seen = {instance: Sweep(scout).seen(instance) for instance in scout.instances}
        scout.system.stop()
        await sweep(Sweep(swept, only=is_in_the_flow), capsys, lambda one: one.start(seen, swept.system.start))
    finally:
        scout.system.stop()
        swept.system.stop()


def is_in_the_flow(instance: str, name: str) -> bool:
    """Tell whether a run can be made to come by a point."""
    return (instance, name) not in _BY_THE_CLOCK


async def sweep(
    one: Sweep, capsys: pytest.CaptureFixture[str], begin: Callable[[Sweep], Awaitable[None]] | None = None
) -> None:
    """Sweep every point, and print a line a run, and a table of the points at the end."""
    with capsys.disabled():
        one.tell = lambda text: print(text, flush=True)
        try:
            if begin is not None:
                await begin(one)
            await one.run()
        finally:
            print(one.table())
