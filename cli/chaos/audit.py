"""Looks at a system that should be well again: what cannot be found out stops nothing of the rest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from cli.chaos.books import Violation
from cli.chaos.desk import said
from cli.chaos.quiet import until_quiet
from cli.chaos.sources import gather_evidence, read_events
from cli.chaos.verdict import dead_letters_since

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping
    from typing import Any

    from cli.chaos.books import Books
    from cli.chaos.desk import Backlog, Desk
    from cli.chaos.house import House
    from cli.chaos.sources import Event

T = TypeVar("T")

_QUIET = 240.0
_RECOVERY = 120.0


@dataclass(slots=True)
class Audit:
    """What is found out about a system. Nothing here raises: what goes wrong is in `unaudited`."""

    house: House
    desk: Desk
    patience: float = _QUIET
    """Seconds in which it should become quiet."""
    lame: list[str] = field(default_factory=list)
    """Processes that did not become ready again."""
    open_ends: list[str] = field(default_factory=list)
    """What was still under way when there was no more waiting, for people."""
    dead_letters: dict[str, int] = field(default_factory=dict)
    """By service: those that were not there before."""
    books: Books | None = None
    """None if any of them could not be read."""
    events: list[Event] = field(default_factory=list)
    unaudited: list[Violation] = field(default_factory=list)
    """What could not be found out, and why."""

    async def wait(self, processes: Iterable[str]) -> None:
        """Return once all processes are ready and nothing moves any more, or that has taken too long."""
        await asyncio.gather(*map(self._until_ready, processes))
        self.open_ends = await self._try("the system", until_quiet(self.desk, self.patience)) or []

    async def look(self, before: Mapping[str, Backlog], restocked: Mapping[str, int]) -> None:
        """Read everything; `before` is what the services had not done when the run began."""
        await self._try("dead letters", self._count_dead_letters(before))
        await self._try("orders, money and stock", self._read_books(restocked))
        if self.books is None:
            self.events = await self._try("the streams", self._read_streams()) or []

    async def _until_ready(self, name: str) -> None:
        if await self._try(name, self.house.until_ready(name, _RECOVERY)) is False:
            self.lame.append(name)

    async def _count_dead_letters(self, before: Mapping[str, Backlog]) -> None:
        told, silent = await self.desk.ask_all()
        self.dead_letters = dead_letters_since(before, told)
        self.unaudited += [
            Violation(service, f"its dead letters could not be audited: {why}") for service, why in silent.items()
        ]

    async def _read_books(self, restocked: Mapping[str, int]) -> None:
        evidence = await gather_evidence(
            self.desk, broker=self.house.nats, provider=self.house.provider, restocked=restocked, shipments=True
        )
        self.books, self.events = evidence.books, evidence.events

    async def _read_streams(self) -> list[Event]:
        return await read_events(self.house.nats)

    async def _try(self, about: str, asking: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await asking
        except Exception as error:  # whatever it is, this was not audited, and the rest is to be told
            self.unaudited.append(Violation(about, f"could not be audited: {said(error)}"))
            return None
