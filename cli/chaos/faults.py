"""Carries a plan of faults out, each when it is due and its target is well, and puts everything right again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import aiohttp

from cli.chaos.plan import Kind
from cli.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.chaos.customers import Customers
    from cli.chaos.house import House
    from cli.chaos.plan import Fault

_AT_ONCE = 3
_RECOVERY = 90.0
_POLL = 0.05
_OUTAGE = "/control/outage"
_TAKEN = 2.0
_SOON = 0.4
_EDGE = ("gateway", "user", "product")
"""Where an order is no longer than its request takes."""


@dataclass(slots=True)
class Incident:
    """A fault that came about; times are seconds since 1970."""

    fault: Fault
    began: float = 0.0
    ended: float = 0.0
    """When the cause was over; what it did may have taken longer to recover from."""
    recovered: float = 0.0
    """When its target was well again; 0 if it never was."""
    failure: str = ""
    """Why it did not come about, if it did not."""


class Watcher(Protocol):
    """Sees what happens."""

    def begun(self, incident: Incident) -> None:
        """A fault has come about."""

    def recovered(self, incident: Incident) -> None:
        """Its target is well again, or will not be."""


class Injector:
    """Breaks a house by a plan."""

    def __init__(
        self, house: House, customers: Customers, plan: Sequence[Fault], *, burst: int, watcher: Watcher
    ) -> None:
        """Just before each fault, `burst` orders are placed."""
        self.incidents: list[Incident] = []
        self._house = house
        self._customers = customers
        self._left = list(plan)
        self._planned = len(plan)
        self._burst = burst
        self._watcher = watcher
        self._busy: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._paused: set[int] = set()

    @property
    def progress(self) -> float:
        """Which part of the plan has begun, 0 to 1."""
        return 1 - len(self._left) / (self._planned + 1) if self._left else 1.0

    async def run(self) -> None:
        """Carry everything out; return when every target is well again, or was waited for in vain."""
        start = time.monotonic()
        while self._left:
            fault = self._next(time.monotonic() - start)
            if fault is None:
                await asyncio.sleep(_POLL)
                continue
            self._left.remove(fault)
            self._busy.add(fault.target)
            task = asyncio.create_task(self._carry_out(Incident(fault)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        await asyncio.gather(*self._running)

    async def heal(self) -> None:
        """Stop breaking things: let every process run and every connection through."""
        tasks = [*self._running]
        for task in tasks:
            task.cancel()
        _signal(self._paused, signal.SIGCONT)
        for proxy in self._house.proxies.values():
            proxy.heal()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self, now: float) -> Fault | None:
        """Return the first that is due, and whose target is well as far as is known."""
        if len(self._busy) >= _AT_ONCE:
            return None
        return next((one for one in self._left if one.at <= now and one.target not in self._busy), None)

    async def _carry_out(self, incident: Incident) -> None:
        fault = incident.fault
        self.incidents.append(incident)
        try:
            if not await self._house.until_ready(fault.target, _RECOVERY):
                incident.failure = "its target was not ready"
                return
            await self._have_orders_placed(fault)
            await self._break(incident)
            if await self._house.until_ready(fault.target, _RECOVERY):
                incident.recovered = time.time()
        except (Problem, aiohttp.ClientError, OSError) as error:
            incident.failure = str(error) or type(error).__name__
        finally:
            self._busy.discard(fault.target)
            self._watcher.recovered(incident)

    async def _have_orders_placed(self, fault: Fault) -> None:
        requests = self._customers.burst(self._burst)
        if fault.target.startswith(_EDGE):
            await asyncio.sleep(fault.lead * _SOON)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_TAKEN):
                while requests and not any(one.order_id for one in requests):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_POLL / 5)
        await asyncio.sleep(fault.lead)

    async def _break(self, incident: Incident) -> None:
        fault = incident.fault
        match fault.kind:
            case Kind.KILL:
                await self._end(incident, signal.SIGKILL)
            case Kind.RESTART:
                await self._end(incident, signal.SIGTERM)
            case Kind.PAUSE:
                await self._pause(incident)
            case Kind.CUT:
                await self._cut(incident)
            case Kind.OUTAGE:
                await self._refuse(incident)

    def _begin(self, incident: Incident) -> None:
        incident.began = incident.ended = time.time()
        self._watcher.begun(incident)

    async def _end(self, incident: Incident, number: signal.Signals) -> None:
        """Have a process ended, and wait until another one is in its place."""
        name = incident.fault.target
        pid = self._house.pid(name)
        self._begin(incident)
        os.kill(pid, number)
        async with asyncio.timeout(_RECOVERY):
            while self._house.pid(name) == pid:  # noqa: ASYNC110 - another process' doing
                await asyncio.sleep(_POLL)

    async def _pause(self, incident: Incident) -> None:
        pid = self._house.pid(incident.fault.target)
        pids = family_of(pid)
        self._begin(incident)
        self._paused |= pids
        try:
            os.kill(pid, signal.SIGSTOP)  # raises if it has gone: then nothing is paused
            _signal(pids - {pid}, signal.SIGSTOP)
            await asyncio.sleep(incident.fault.seconds)
        finally:
            _signal(pids, signal.SIGCONT)
            self._paused -= pids
            incident.ended = time.time()

    async def _cut(self, incident: Incident) -> None:
        fault = incident.fault
        assert fault.link is not None, "a cut has a link"
        proxy = self._house.proxies[fault.link]
        self._begin(incident)
        proxy.cut(silent=fault.silent)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.heal()
            incident.ended = time.time()

    async def _refuse(self, incident: Incident) -> None:
        fault = incident.fault
        wanted = {"seconds": fault.seconds, "answers_lost": fault.silent}
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(self._house.provider, timeout=timeout, raise_for_status=True) as session:
            try:
                async with session.post(_OUTAGE, json=wanted):
                    self._begin(incident)
                await asyncio.sleep(fault.seconds)
                incident.ended = time.time()
            finally:
                with suppress(aiohttp.ClientError, OSError):  # it ends by itself too, only later
                    async with session.post(_OUTAGE, json={"seconds": 0}):
                        pass


def family_of(pid: int) -> set[int]:
    """Return a process and everything that it started: PostgreSQL's are sessions of their own (Linux only)."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in sorted(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
