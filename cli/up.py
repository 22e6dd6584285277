"""`weft up` and `weft down`: the whole system on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cli.child import die_with_parent
from cli.credentials import make_admin
from cli.data import DEFAULT_DATA, DataDirectory
from cli.errors import REFUSED, Problem
from cli.plan import make_plan
from cli.ports import is_free
from cli.scale import parse_scale
from cli.supervisor import Supervisor
from cli.system import SERVICES, System, python_module, python_path
from weft.embedded import CannotStart

if TYPE_CHECKING:
    from pathlib import Path

    from cli.child import Life
    from cli.plan import Plan, Wishes
    from cli.screen import Screen

_FORMER_PROCESSES = 30.0
_TRIES = 3
_FRAME = 0.1
_INTERRUPTED = 130


def up(wishes: Wishes, kind: type[System] = System) -> int:
    """Run the system until SIGINT or SIGTERM; return the exit code. Raises `Problem` if it cannot start."""
    scale = parse_scale(wishes.scale, SERVICES)
    os.umask(0o077)  # what the system keeps is nobody else's business
    data = DataDirectory.at(wishes.data)
    with data.hold(patience=_FORMER_PROCESSES, waiting=_say_waiting) as held:
        make_admin(data.admin_file)
        for tries_left in reversed(range(_TRIES)):
            plan = make_plan(wishes, scale, data, kind)
            data.retire_run()
            try:
                return asyncio.run(_Run(wishes, data, plan, held).serve())
            except CannotStart as reason:
                raise Problem(str(reason)) from None
            except Problem:
                # Ours have all ended: whoever listens on one of our ports now was quicker to take it.
                if not tries_left or all(map(is_free, plan.system.ports.values())):
                    raise
                print("somebody took a port meanwhile: starting again on others", file=sys.stderr, flush=True)
    raise AssertionError("the last try returns or raises")


def down(folder: Path, patience: float) -> str:
    """Stop the system of a folder and wait until all of it is gone; return what happened, for people.

    Raises `Problem` if it is still there after `patience` seconds.
    """
    data = DataDirectory.at(folder)
    end = time.monotonic() + patience
    pid = data.holder()
    if pid is None and not data.processes_run():
        return f"nothing runs in {data.path}"
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while data.holder() is not None or data.processes_run():
        if time.monotonic() > end:
            raise Problem(f"{data.path} is still in use after {patience:g} s (pid {pid}).", REFUSED)
        time.sleep(_FRAME / 2)
    return f"stopped (pid {pid})" if pid else "the last processes of an earlier run have ended"


class _Run:
    """One run of the system, from the first process to the last; it hears of each and keeps run.json true."""

    def __init__(self, wishes: Wishes, data: DataDirectory, plan: Plan, held: int) -> None:
        children = plan.system.processes(one_process=wishes.one_process)
        self._wishes = wishes
        self._data = data
        self._system = plan.system
        self._notes = plan.notes
        self._supervisor = Supervisor(children, logs=data.logs, listener=self, inherited=(held,))
        self._asked_to_stop = asyncio.Event()
        self._killed = False
        self._demo: asyncio.subprocess.Process | None = None

    async def serve(self) -> int:
        """Run until a signal asks to stop; return the exit code. Raises `Problem` if it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                loop.add_signal_handler(number, self._stop_or_kill)
        work = asyncio.create_task(self._work())
        asked = asyncio.create_task(self._asked_to_stop.wait())
        try:
            await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, asked):
                task.cancel()
            await asyncio.gather(work, asked, return_exceptions=True)
            await self._stop()
        return _INTERRUPTED if self._killed else 0

    async def _work(self) -> None:
        since = time.monotonic()
        drawing = asyncio.create_task(self._draw())
        try:
            await self._supervisor.start()
        finally:
            drawing.cancel()
            self._screen.close()
        self._introduce(time.monotonic() - since)
        await asyncio.gather(self._supervisor.watch(), self._run_demo())

    async def _draw(self) -> None:
        while True:
            await asyncio.sleep(_FRAME)
            self._screen.draw()

    def _introduce(self, seconds: float) -> None:
        lives = self._supervisor.lives
        self._screen.started(((part, life.pid or 0) for life in lives for part in life.child.parts), seconds)
        option = "" if self._wishes.data == DEFAULT_DATA else f" --data {self._wishes.data}"
        self._screen.say(
            f"\nplace an order   weft order place{option} --sku SKU --wait"
            f"\nwhat there is    weft product list{option}"
            f"\nadmin            {self._data.admin_file} has email and password"
            f"\nlogs             {self._data.logs}"
            "\nstop             Ctrl-C\n"
        )
        for note in self._notes:
            self._screen.say(note)
        self._screen.say(f"weft is ready: {self._system.gateway_url}")

    async def _run_demo(self) -> None:
        if not self._wishes.demo:
            return
        # A process of its own, so that whatever goes wrong with it leaves the supervisor alone.
        self._demo = await asyncio.create_subprocess_exec(
            *python_module("cli", "demo", "--data", str(self._data.path)),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": python_path(), "WEFT_GATEWAY": ""},
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        await self._demo.wait()
        self._screen.say("\nserving; Ctrl-C stops everything")

    async def _stop(self) -> None:
        if self._demo and self._demo.returncode is None:
            self._demo.terminate()
            await self._demo.wait()
        await self._supervisor.stop()
        self._data.retire_run()
        if self._asked_to_stop.is_set():
            self._screen.say("stopped")

    def _stop_or_kill(self) -> None:
        if self._asked_to_stop.is_set():
            self._killed = True
            self._supervisor.kill()
            return
        self._asked_to_stop.set()
        self._screen.say("\nstopping (Ctrl-C again kills)")

    @cached_property
    def _screen(self) -> Screen:
        # Imported once the first process is on its way.
        from cli.screen import Screen

        return Screen([life.child.name for life in self._supervisor.lives])

    def spawned(self, life: Life) -> None:
        """Write the new pid to run.json."""
        if all(other.pid for other in self._supervisor.lives):
            self._data.write_run(self._describe())
        self._screen.spawned(life)

    def ready(self, life: Life) -> None:
        """Show it."""
        self._screen.ready(life)

    def crashed(self, life: Life, end: str, delay: float) -> None:
        """Show it."""
        self._screen.crashed(life, end, delay)

    def killed(self, life: Life) -> None:
        """Show it."""
        self._screen.killed(life)

    def _describe(self) -> dict[str, Any]:
        return {
            "gateway": self._system.gateway_url,
            "nats": self._system.nats_url,
            "processes": [
                {
                    "name": part.name,
                    "pid": life.pid,
                    "started": life.started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "ports": dict(part.ports),
                }
                for life in self._supervisor.lives
                for part in life.child.parts
            ],
        }


def _say_waiting() -> None:
    print("waiting for the processes of an earlier run to end", file=sys.stderr, flush=True)
