"""Waiting, and ending tasks, for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and return once they have ended, however they did.

    A task that goes on is cancelled again: before Python 3.12, `asyncio.wait_for` loses a cancellation that
    comes in the moment in which what it waits for is there.
    """
    while going_on := [task for task in tasks if not task.done()]:
        for task in going_on:
            task.cancel()
        await asyncio.wait(going_on, timeout=_AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)  # so that no error counts as unseen


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, at most `seconds`; tell whether it is set.

    `asyncio.wait_for` would do, were it not for the cancellation that it loses before Python 3.12: a task group
    cancels its tasks once, and would then wait for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
