"""After a power cut in mid-burst every accepted order is there, and ends well; two runs must lose something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.flow.audit import audit
from tests.flow.shop import Shop, state_of
from tests.flow.systems import ROOT, WholeSystem
from tests.proof.cuts import cut_in_mid_burst, losses
from tests.proof.disks import needs_disks
from tests.proof.mutants.catalogue import MUTANTS
from tests.proof.mutants.trees import mutated

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_disks, pytest.mark.timeout(420)]


async def test_a_power_cut_loses_no_accepted_order_and_all_of_them_end(tmp_path: Path) -> None:
    cut = await cut_in_mid_burst(tmp_path, ROOT)
    with cut.disk.mounted(tmp_path / "after") as place:
        lost = await losses(cut, place)
        assert (lost.orders, lost.events) == (set(), set())
        system = WholeSystem(place)
        system.restocked.update(cut.restocked)
        try:
            await system.start()
            async with Shop(system) as shop:
                books = await audit(shop)
        finally:
            system.stop()
    assert {one: state_of(books.orders[one]) for one in cut.accepted} == cut.accepted


async def test_control_without_a_sync_at_every_commit_accepted_orders_are_lost(tmp_path: Path) -> None:
    """What the power cut would show if nothing could be lost by it would be nothing."""
    with mutated(MUTANTS["synchronous=NORMAL"]) as tree:
        cut = await cut_in_mid_burst(tmp_path, tree)
    with cut.disk.mounted(tmp_path / "after") as place:
        assert (await losses(cut, place)).orders


async def test_control_with_the_brokers_own_sync_interval_acknowledged_events_are_lost(tmp_path: Path) -> None:
    with mutated(MUTANTS["sync_interval default"]) as tree:
        cut = await cut_in_mid_burst(tmp_path, tree)
    with cut.disk.mounted(tmp_path / "after") as place:
        assert (await losses(cut, place)).events
