"""One process of a system: what it is, and its life from spawn to end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cli.logs import LogFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

_PR_SET_PDEATHSIG = 1

if TYPE_CHECKING:
    Probe = Callable[[], Awaitable[str | None]]
    """Asks a process whether it is ready: None if it is, else why not."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something with a name of its own that a process hosts, and the ports where it listens."""

    name: str
    ports: Mapping[str, int]
    address: str
    """Where to reach it, for people."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process to run and to keep running; `stop_signal` asks it to end.

    Children of the lowest `layer` are started first and stopped last.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    layer: int = 0
    parts: tuple[Part, ...] = ()
    probes: tuple[Probe, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM


class Life:
    """A child and its process, which may be the second or third that it has."""

    def __init__(self, child: Child, logs: Path, inherited: tuple[int, ...]) -> None:
        self.child = child
        self.log = LogFile(logs / f"{child.name}.log")
        self.started = datetime.now(UTC)
        self.readied = asyncio.Event()
        """Set when a process of the child was ready for the first time."""
        self._inherited = inherited
        self._process: asyncio.subprocess.Process | None = None
        self._since = 0.0

    @property
    def pid(self) -> int | None:
        """The pid of its latest process; None before the first."""
        return self._process.pid if self._process else None

    @property
    def age(self) -> float:
        """How many seconds ago its latest process was started."""
        return time.monotonic() - self._since

    async def spawn(self) -> None:
        """Start a process, in a session of its own: the terminal's Ctrl-C is not for it.

        Raises `OSError` if the program cannot be started.
        """
        self.started, self._since = datetime.now(UTC), time.monotonic()
        with self.log.open() as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.child.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.child.env},
                pass_fds=self._inherited,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    async def ended(self) -> int:
        """Wait until the process has ended; return its exit code, or minus the signal that killed it."""
        assert self._process is not None, "spawned before"
        return await self._process.wait()

    async def until_ready(self, poll: float) -> None:
        """Ask every `poll` seconds until every probe is content."""
        while True:
            if await self.unready() is None:
                self.readied.set()
                return
            await asyncio.sleep(poll)

    async def unready(self) -> str | None:
        """Return why the process is not ready; None if it is."""
        for probe in self.child.probes:
            if reason := await probe():
                return reason
        return None

    async def end(self, grace: float) -> bool:
        """Ask the process to end, and kill it after `grace` seconds; tell whether it ended by itself."""
        if self._process is None:
            return True
        self._signal(self.child.stop_signal)
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return False
        return True

    def kill(self) -> None:
        """Kill the process, if there is one, and what it started."""
        if self._alive:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # type: ignore[union-attr]

    def _signal(self, number: signal.Signals) -> None:
        if self._alive:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)  # type: ignore[union-attr]

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None


def describe_end(code: int) -> str:
    """Say for people how a process ended whose `code` is an exit code, or minus a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def die_with_parent() -> Callable[[], None] | None:
    """Return what a new process runs first, so that it is asked to end when this one dies (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
