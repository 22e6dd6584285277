"""Tells whoever watches an aggregate that it was saved by this instance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from weft.tasks import happens

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weft.store import AggregateStore


class Changes:
    """Wakes those who wait for a change of an aggregate. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}

    def tell(self, changed: Iterable[tuple[str, str]]) -> None:
        """Wake those who wait for one of these; each is a store's name and a key."""
        if self._waiting:
            for place in changed:
                for event in self._waiting.get(place, ()):
                    event.set()

    def watch(self, store: AggregateStore[Any], key: str) -> Watch:
        """Return a watch on one aggregate, to be used in a `with`."""
        return Watch(self._waiting, (store.name, key))


class Watch:
    """Waits for changes of one aggregate; those between two waits are not missed."""

    def __init__(self, waiting: dict[tuple[str, str], set[asyncio.Event]], place: tuple[str, str]) -> None:
        self._waiting = waiting
        self._place = place
        self._event = asyncio.Event()

    def __enter__(self) -> Watch:
        self._waiting.setdefault(self._place, set()).add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        events = self._waiting[self._place]
        events.discard(self._event)
        if not events:
            del self._waiting[self._place]

    async def wait(self, seconds: float) -> None:
        """Return at the next change, or after `seconds`: another instance may have changed it."""
        if await happens(self._event, seconds):
            self._event.clear()
