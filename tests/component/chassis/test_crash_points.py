"""A process may die before and after whatever it does; `make proof` tries every point, this is a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.component.chassis.swept import SweptToy
from tests.component.chassis.world import on_sqlite
from tests.sweep import Sweep

if TYPE_CHECKING:
    from tests.component.chassis.world import World

_SAMPLE = {
    "commit of toy-from-order.apply: before",
    "commit of toy-from-order.apply: after",
    "ack of toy-from-order: before",
    "publish of commerce.inventory.v1.InventoryReserved: after",
    "call of ask: after",
    "commit of Intents.settle: after",
}


@on_sqlite
async def test_a_process_that_dies_before_or_after_a_commit_a_message_or_a_call_loses_and_doubles_nothing(
    world: World,
) -> None:
    swept = SweptToy(world)
    sweep = Sweep(swept, only=lambda _, name: name in _SAMPLE, most_visits=1)
    async with swept.running():
        await sweep.run()
    assert {name for _, name in sweep.points} == _SAMPLE
