"""Starts processes, restarts what dies, and stops them in order."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cli.child import Life, describe_end
from cli.errors import OPERATOR, REFUSED, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cli.child import Child


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    poll: float = 0.05
    """Between two questions whether a process is ready."""
    start: float = 60.0
    """For everything to become ready."""
    grace: float = 15.0
    """For a process to end by itself."""
    first_delay: float = 0.2
    """Before the first restart; it doubles with each further one."""
    longest_delay: float = 5.0
    """Before any restart."""
    steady: float = 30.0
    """After which a process counts as healthy: the next restart is a first one again."""
    tries: int = 4
    """Not seconds: how often a process may crash before it was ever ready."""


class Listener(Protocol):
    """Hears what happens to the processes."""

    def spawned(self, life: Life) -> None:
        """A process was started."""

    def ready(self, life: Life) -> None:
        """A process became ready."""

    def crashed(self, life: Life, end: str, delay: float) -> None:
        """A process ended unasked, and `end` says how; it is restarted after `delay` seconds."""

    def killed(self, life: Life) -> None:
        """A process that was asked to end did not, so it was killed."""


class Supervisor:
    """Keeps `children` running between `start` and `stop`; each inherits the descriptors `inherited`."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        logs: Path,
        listener: Listener,
        inherited: tuple[int, ...] = (),
        timing: Timing | None = None,
    ) -> None:
        self.lives = [Life(child, logs, inherited) for child in children]
        self._listener = listener
        self._timing = timing or Timing()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the lowest layer, then everything else at once; return when all are ready.

        Raises `Problem` if a process says that the operator must mend something first (exit code 2), if one
        crashes again and again, or if it takes too long. Call `stop` in every case.
        """
        lowest = min(life.child.layer for life in self.lives)
        try:
            async with asyncio.timeout(self._timing.start):
                await self._bring_up([life for life in self.lives if life.child.layer == lowest])
                await self._bring_up([life for life in self.lives if life.child.layer != lowest])
        except TimeoutError:
            raise await self._describe_delay() from None

    async def watch(self) -> None:
        """Never return; raise what went wrong in the supervisor itself."""
        await asyncio.gather(*self._keepers)

    async def stop(self) -> None:
        """Stop the processes, the highest layer first, those of one layer in parallel."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for layer in sorted({life.child.layer for life in self.lives}, reverse=True):
            await asyncio.gather(*(self._end(life) for life in self.lives if life.child.layer == layer))

    def kill(self) -> None:
        """Kill every process at once; a `stop` in progress then ends soon."""
        for life in self.lives:
            life.kill()

    async def _bring_up(self, lives: Sequence[Life]) -> None:
        self._keepers += [asyncio.create_task(self._keep(life)) for life in lives]
        ready = asyncio.create_task(_all_ready(lives))
        try:
            await asyncio.wait([ready, *self._keepers], return_when=asyncio.FIRST_COMPLETED)
            for keeper in self._keepers:
                if keeper.done():
                    keeper.result()
        finally:
            ready.cancel()

    async def _keep(self, life: Life) -> None:
        delay = self._timing.first_delay
        for times in itertools.count(1):
            end = await self._run(life)
            if times == self._timing.tries and not life.readied.is_set():
                raise Problem(f"{life.child.name} {end}, for the {times}th time; see {life.log.path}", REFUSED)
            if life.age >= self._timing.steady:
                delay = self._timing.first_delay
            self._listener.crashed(life, end, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._timing.longest_delay)

    async def _run(self, life: Life) -> str:
        """Run the child once; return how it ended, for people."""
        try:
            await life.spawn()
        except OSError as error:
            if life.readied.is_set():
                return f"could not be started ({error})"
            raise Problem(f"cannot start {life.child.name}: {error}") from error
        self._listener.spawned(life)
        code = await self._attend(life)
        if code == OPERATOR and not life.readied.is_set():
            raise Problem(_complaint(life))
        return describe_end(code)

    async def _attend(self, life: Life) -> int:
        announcing = asyncio.create_task(self._announce(life))
        try:
            return await life.ended()
        finally:
            announcing.cancel()

    async def _announce(self, life: Life) -> None:
        await life.until_ready(self._timing.poll)
        self._listener.ready(life)

    async def _end(self, life: Life) -> None:
        if not await life.end(self._timing.grace):
            self._listener.killed(life)

    async def _describe_delay(self) -> Problem:
        late = [
            f"{life.child.name} ({await life.unready() or 'just now'}; see {life.log.path})"
            for life in self.lives
            if not life.readied.is_set()
        ]
        return Problem(f"not ready after {self._timing.start:g} s: {', '.join(late)}", REFUSED)


async def _all_ready(lives: Sequence[Life]) -> None:
    for life in lives:
        await life.readied.wait()


def _complaint(life: Life) -> str:
    lines = life.log.last_lines(1)
    return f"{life.child.name}: {lines[0]}" if lines else f"{life.child.name} ended; see {life.log.path}"
