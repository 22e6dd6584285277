"""Waiting, and ending tasks, whatever else happens in the same moment."""

from __future__ import annotations

import asyncio

import pytest

from weft.tasks import end, happens


async def test_waiting_tells_whether_it_happened() -> None:
    event = asyncio.Event()
    assert not await happens(event, 0.01)
    event.set()
    assert await happens(event, 0.01)


async def test_a_cancellation_that_comes_with_the_event_is_heeded() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(happens(event, 10))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_group_of_tasks_ends_though_what_they_wait_for_happens_meanwhile() -> None:
    event = asyncio.Event()

    async def work() -> None:
        while True:
            await happens(event, 10)
            event.clear()

    async def work_together() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            tasks.create_task(work())

    working = asyncio.create_task(work_together())
    await asyncio.sleep(0)
    event.set()
    await asyncio.wait_for(end(working), 5)
