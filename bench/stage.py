"""What every section gets: a folder, how much to do, somewhere to say so, and processes that end with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from cli.child import describe_end, die_with_parent
from cli.system import python_path

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from bench.display import Display

_GRACE = 20.0
_LAST_LINES = 5


class Broken(Exception):
    """Something did not do what it is there for, so there is nothing to measure; the text says what."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    events: int = 10_000
    """Handled in a round at the default batch."""
    single_events: int = 1_500
    """Handled in a round at batch 1."""
    rounds: int = 3
    probes: int = 300
    """Single events sent to an idle service."""
    calls: int = 4_000
    """Made to each server in a round."""
    call_rounds: int = 5
    orders: int = 200
    """Orders placed one at a time, each way."""
    seconds: float = 10.0
    """Of load that is measured, in a round of orders each way."""
    warming: float = 3.0
    """Seconds of load before."""
    starts: int = 3


QUICK = Scale(
    events=2_000,
    single_events=300,
    rounds=1,
    probes=50,
    calls=800,
    call_rounds=1,
    orders=20,
    seconds=4.0,
    warming=2.0,
    starts=1,
)


@dataclass(slots=True)
class Stage:
    """One run of the benchmark."""

    folder: Path
    scale: Scale
    display: Display
    versions: dict[str, str] = field(default_factory=dict)
    _folders: int = 0

    def new_folder(self, name: str) -> Path:
        """Make an empty folder for data and logs."""
        self._folders += 1
        folder = self.folder / f"{self._folders:02}-{name}"
        folder.mkdir()
        folder.chmod(0o711)  # PostgreSQL may have to run as another user
        return folder


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a process's environment: `settings`, and nothing else that would set up a service."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "OTEL_"))}
    return {**inherited, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", **(settings or {})}


@asynccontextmanager
async def running(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str], read_output: bool = False
) -> AsyncIterator[Process]:
    """Run a program as long as the `with`; its output goes to `log`, or with `read_output` to the caller.

    It is in a session of its own, so that Ctrl-C is for the benchmark, and ends with the benchmark's process.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if read_output else output,
            stderr=output,
            env=dict(env),
            start_new_session=True,
            preexec_fn=die_with_parent(),
            limit=2**24,
        )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE):
            # The rest of its output, or it may wait for ever for somebody to read it.
            while process.stdout is not None and await process.stdout.read(2**16):
                pass
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def result_of(display: Display, module: str, *arguments: str, log: Path) -> Any:
    """Run a module in a process of its own that prints what `tell` does; show its steps, and return its result.

    Raises `Broken` with its last words if it ends without one.
    """
    argv = [sys.executable, "-P", "-m", module, *arguments]
    async with running(argv, log=log, env=environment(), read_output=True) as process:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            told = json.loads(line)
            if "result" in told:
                return told["result"]
            display.step(told["step"])
        code = await process.wait()
    raise Broken(f"{module} {describe_end(code)}: {_last_words(log)}")


def tell(**what: Any) -> None:
    """Print one line for `result_of`: `step=text` while it works, `result=...` at the end."""
    print(json.dumps(what), flush=True)


def check_runs(process: Process, name: str, log: Path) -> None:
    """Raise `Broken` with its last words if a process has ended."""
    if process.returncode is not None:
        raise Broken(f"{name} {describe_end(process.returncode)}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:]) or "it said nothing"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and all that it started have used; 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        ended = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    total = ended.children_user + ended.children_system
    for one in family:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def pids_of(run: Mapping[str, Any]) -> dict[str, int]:
    """Return the processes that a `run.json` tells of, by name: "services" for one that hosts all of them."""
    by_pid: dict[int, list[str]] = {}
    for one in run.get("processes", []):
        by_pid.setdefault(one["pid"], []).append(one["name"])
    return {names[0] if len(names) == 1 else "services": pid for pid, names in by_pid.items()}
