"""Waits until nothing moves any more in a system."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.chaos.desk import Desk

_SHORTEST, _LONGEST = 0.02, 0.25


async def until_quiet(desk: Desk, seconds: float) -> list[str]:
    """Return once nothing is under way anywhere, or `seconds` are over; return what is open then, for people."""
    before: list[int] = []
    end, pause = time.monotonic() + seconds, _SHORTEST
    while True:
        backlogs, silent = await desk.ask_all()
        found = [f"{service} does not tell: {why}" for service, why in silent.items()]
        found += [f"{service}: {one.open_ends}" for service, one in backlogs.items() if one.open_ends]
        # Twice the same: what moved from a place not looked at yet to one looked at already shows then.
        now = [one.last_event for one in backlogs.values()]
        if not found and now == before:
            return []
        before = now
        if time.monotonic() > end:
            return found or ["something still moves"]
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST)
