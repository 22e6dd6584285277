"""A sweep of the crash points: each instance of something that runs is killed at each of its points, on its first
visit in a run, on its second, and so on, until a run passes in which it is not killed there.

In every run each instance has a few points armed, and is killed at any that it comes to; only a run without a death
proves that an instance's points are not visited so often. Points that show themselves on the way are swept too.
A point that is visited very often in a run is swept up to a cap, and told of at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from weft.crash_points import read_armed, write_armed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

_FRESH = 3
_TOGETHER = 5
_TOGETHER_AGAIN = 12
_MOST_VISITS = 6
_CHANCES = 12
_FROM_TIME_TO_TIME = 6.0


class Swept(Protocol):
    """What runs, and is restarted by itself when it dies."""

    @property
    def folder(self) -> Path:
        """What the processes have in `WEFT_CRASH_POINTS`."""

    @property
    def instances(self) -> Sequence[str]:
        """What the processes have in `WEFT_INSTANCE`."""

    async def play(self) -> None:
        """Go through a small scenario, always the same, to its end. Raises `AssertionError` if it ends otherwise."""

    async def end(self, instances: Collection[str]) -> None:
        """Ask these to end; return when they have been started again."""

    async def settle(self) -> None:
        """Return once everything runs and nothing is under way."""

    async def check(self) -> None:
        """Raise `AssertionError` if anything is lost or doubled."""


@dataclass(slots=True)
class Point:
    """A crash point of one instance, and what is known of it."""

    instance: str
    name: str
    company: Mapping[str, int]
    """What was armed when it was first seen."""
    kills: int = 0
    unfired: int = 0
    """In how many runs on end it was armed in vain."""
    end: str = ""
    """Why it is not armed any more: a run passed clean, or it was killed there as often as is tried."""


@dataclass
class Sweep:
    """One sweep. `only` says which points to sweep, all by default; `tell` hears of each run.

    No instance is killed at a point at a later visit in a run than at its `most_visits`th.
    """

    swept: Swept
    only: Callable[[str, str], bool] = lambda instance, name: True
    most_visits: int = _MOST_VISITS
    tell: Callable[[str], None] = print
    points: dict[tuple[str, str], Point] = field(default_factory=dict)
    runs: int = 0

    async def start(self, seen: Mapping[str, Collection[str]], start: Callable[[], Awaitable[None]]) -> None:
        """Start what was never started before, and kill each instance once at all points that its start came by."""
        began = time.monotonic()
        armed = {instance: {n: 1 for n in names if self.only(instance, n)} for instance, names in seen.items()}
        for instance, its in armed.items():
            write_armed(self._armed_file(instance), its)
        await start()
        await self.swept.settle()
        left = {instance: read_armed(self._armed_file(instance)) for instance in armed}
        self.points = {(i, n): Point(i, n, {}, kills=int(n not in left[i])) for i, its in armed.items() for n in its}
        self.tell(f"{sum(one.kills for one in self.points.values())} kills in {time.monotonic() - began:.0f} s")

    async def run(self) -> None:
        """Sweep until every point is done. Raises `AssertionError` when a run goes wrong, or a point is never hit."""
        began = time.monotonic()
        await self._run({})
        while armed := self._choose():
            await self._run(armed)
        kills = sum(point.kills for point in self.points.values())
        self.tell(f"{self.runs} runs and {kills} kills in {time.monotonic() - began:.0f} s")
        self.tell(f"{len(self.capped)} of {len(self.points)} points were capped at visit {self.most_visits} of a run")
        missed = [f"{point.instance} {point.name}" for point in self.points.values() if not point.kills]
        assert not missed, f"seen once, and never again: {missed}"

    @property
    def capped(self) -> list[Point]:
        """The points that may be visited more often in a run than they were swept."""
        return [point for point in self.points.values() if point.end and point.kills >= self.most_visits]

    def table(self) -> str:
        """Return, for people, what came of each point."""
        rows = sorted((one.instance, one.name, one.kills, one.end) for one in self.points.values())
        width = max((len(name) for _, name, *_ in rows), default=0)
        return "\n".join(f"{instance:12} {name:{width}} {kills:3}  {end}" for instance, name, kills, end in rows)

    async def _run(self, armed: Mapping[str, dict[str, int]]) -> None:
        began = time.monotonic()
        files = {instance: self._armed_file(instance) for instance in self.swept.instances}
        for instance, file in files.items():
            write_armed(file, armed.get(instance, {}))
        try:
            await self.swept.play()
            await self._linger(armed, files)
            # For the points that are visited only at the end of a process, or at its start.
            await self.swept.end([instance for instance, file in files.items() if read_armed(file)])
            await self.swept.settle()
            left = {instance: read_armed(file) for instance, file in files.items()}
            for file in files.values():
                file.unlink()
            await self.swept.settle()
            await self.swept.check()
        except AssertionError as error:
            raise AssertionError(f"armed were {armed}, and then: {error}") from error
        self.runs += 1
        for instance, its in armed.items():
            self._note(instance, its, left[instance])
        new = self._discover(armed)
        hit = [
            f"{instance}: {name} ({its[name]})"
            for instance, its in armed.items()
            for name in its.keys() - left[instance]
        ]
        self.tell(
            f"run {self.runs}, {time.monotonic() - began:.1f} s, {new} new, killed at: {'; '.join(hit) or 'none'}"
        )

    def _armed_file(self, instance: str) -> Path:
        return self.swept.folder / f"{instance}.armed"

    def seen(self, instance: str) -> list[str]:
        """Return the names of the points that an instance ever came by."""
        return (self.swept.folder / f"{instance}.seen").read_text().splitlines()

    async def _linger(self, armed: Mapping[str, dict[str, int]], files: Mapping[str, Path]) -> None:
        """Give what is visited only from time to time the time to be visited."""
        rare = {(one.instance, one.name) for one in self.points.values() if one.unfired and not one.kills}
        waiting = {place for place in rare if place[1] in armed.get(place[0], {})}
        end = time.monotonic() + _FROM_TIME_TO_TIME
        while any(name in read_armed(files[instance]) for instance, name in waiting) and time.monotonic() < end:
            await asyncio.sleep(0.1)

    def _choose(self) -> dict[str, dict[str, int]]:
        """Return what to arm: new points and further visits first, then what was armed in vain before."""
        chosen: dict[str, dict[str, int]] = {}
        queues: defaultdict[str, list[Point]] = defaultdict(list)
        for point in self.points.values():
            if not point.end:
                queues[point.instance].append(point)
        for instance, queue in queues.items():
            fresh = [point for point in queue if not point.unfired][:_FRESH]
            again = sorted((point for point in queue if point.unfired), key=lambda point: point.unfired)
            together = (fresh + again)[: _TOGETHER if fresh else _TOGETHER_AGAIN]
            chosen[instance] = {point.name: point.kills + 1 for point in together}
            rare = [point for point in again if not point.kills and point.unfired > 1]
            if rare and not fresh:
                # They may be visited only after what happened when they were seen.
                company = rare[0].company
                chosen[instance] = {**company, **{one.name: 1 for one in rare if one.company == company}}
        return chosen

    def _note(self, instance: str, armed: Mapping[str, int], left: Mapping[str, int]) -> None:
        died = armed.keys() != left.keys()
        for name, visit in armed.items():
            point = self.points.get((instance, name))
            if point is None or point.end:
                continue  # it was in another point's company
            if name not in left:
                point.kills, point.unfired = max(point.kills, visit), 0
                point.end = f"capped at {self.most_visits}" if point.kills >= self.most_visits else ""
                # To the end of the queue.
                self.points[instance, name] = self.points.pop((instance, name))
                continue
            point.unfired += 1
            if point.kills and not died:
                point.end = "passed clean"
            elif not point.kills and point.unfired >= _CHANCES:
                point.end = "never hit"

    def _discover(self, armed: Mapping[str, dict[str, int]]) -> int:
        before = len(self.points)
        for instance in self.swept.instances:
            for name in self.seen(instance):
                if self.only(instance, name):
                    self.points.setdefault((instance, name), Point(instance, name, armed.get(instance, {})))
        return len(self.points) - before
