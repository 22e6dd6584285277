"""The whole system, as `weft up` runs it, for as long as it is measured."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from bench.stage import Broken, check_runs, environment, pids_of, result_of, running
from cli.data import DataDirectory
from cli.system import BUSY
from weft.tasks import end

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.stage import Stage

_READY = b"weft is ready"
_PATIENCE = 90.0
_MEGABYTE = 1e6


class Memory(NamedTuple):
    """What a process holds, in megabytes."""

    resident: float
    """All its pages, those too that it shares with others (RSS)."""
    proportional: float
    """Of shared pages only its part (PSS); not a number where the system does not tell."""


class System:
    """A system that was started; `seconds` is how long that took, from the command to its word that it is ready."""

    def __init__(self, data: Path, supervisor: int, seconds: float) -> None:
        self.data = data
        self.seconds = seconds
        self._supervisor = supervisor
        self._pids = self.pids()

    def pids(self) -> dict[str, int]:
        """Return the processes by name; all services are "services" if they share one."""
        return pids_of(DataDirectory.at(self.data).read_run() or {})

    def memory(self) -> dict[str, Memory]:
        """Return what each process holds."""
        pids = {**self.pids(), "weft up": self._supervisor}
        return {name: _memory_of(pid) for name, pid in pids.items()}

    def check(self) -> None:
        """Raise `Broken` if a process was restarted: then nothing that was measured counts."""
        if self.pids() != self._pids:
            raise Broken(f"a process was restarted: {self._pids} became {self.pids()}")


def _memory_of(pid: int) -> Memory:
    told = psutil.Process(pid).memory_full_info()
    return Memory(told.rss / _MEGABYTE, getattr(told, "pss", math.nan) / _MEGABYTE)


@asynccontextmanager
async def weft_up(folder: Path, *, one_process: bool = False) -> AsyncIterator[System]:
    """Run `weft up` on `folder`/data until the end of the `with`."""
    data, log = folder / "data", folder / "weft-up.log"
    argv = [sys.executable, "-P", "-m", "cli", "up", "--data", str(data), "--gateway-port=0"]
    start = time.perf_counter()
    async with running(
        [*argv, "--one-process"] if one_process else argv, log=log, env=environment(BUSY), read_output=True
    ) as process:
        await _until_ready(process, log)
        seconds = time.perf_counter() - start
        reading = asyncio.create_task(_copy_output(process, log))
        system = System(data, process.pid, seconds)
        try:
            yield system
            check_runs(process, "weft up", log)
            system.check()
        finally:
            await end(reading)


async def _until_ready(process: Process, log: Path) -> None:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE):
            while line := await process.stdout.readline():
                with log.open("ab") as file:
                    file.write(line)
                if line.startswith(_READY):
                    return
            await process.wait()
    except TimeoutError:
        raise Broken(f"weft up is not ready after {_PATIENCE:g} s; see {log}") from None
    check_runs(process, "weft up", log)


async def _copy_output(process: Process, log: Path) -> None:
    assert process.stdout is not None
    with log.open("ab") as file:
        while some := await process.stdout.read(2**16):
            file.write(some)


async def place_orders(stage: Stage, system: System, in_flight: int) -> dict[str, Any]:
    """Have a process of its own place orders, first one at a time; return what it measured."""
    scale = stage.scale
    options = {
        "one-at-a-time": scale.orders,
        "in-flight": in_flight,
        "rounds": scale.rounds,
        "warming": scale.warming,
        "seconds": scale.seconds,
    }
    arguments = [str(system.data), *(f"--{name}={value}" for name, value in options.items())]
    told: dict[str, Any] = await result_of(
        stage.display, "bench.orders", *arguments, log=system.data.parent / "orders.log"
    )
    return told
