"""Crash points: places at which a process kills itself when a test says so, to prove that it may die anywhere.

They are in the chassis' own mechanisms, just before and just after every commit, every message that is published
or acknowledged, and every call to the outside. A point's name comes from what passes through, as in `commit of
place_order: before`: so whatever is built on the chassis has its points without listing any.

For tests alone. Without the environment variable `WEFT_CRASH_POINTS`, which names a folder, nothing of this is on.
With it, a process keeps two files there, called after its `WEFT_INSTANCE`:

    order-1.seen    written here: the name of each point that a process of this instance ever came by, one a line
    order-1.armed   written by the test (atomically, by a rename): lines `<visit> <name>`

The process kills itself, with SIGKILL, at the first point whose visits reach the number in its line, counted since
the process began or the file was written, whichever was later; it takes that line out of the file before.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal, NoReturn

_VARIABLE = "WEFT_CRASH_POINTS"

Moment = Literal["before", "after"]


class CrashPoints:
    """The points of one process, and which of them are armed."""

    def __init__(self, folder: Path, instance: str) -> None:
        self._seen_file = folder / f"{instance}.seen"
        self._armed_file = folder / f"{instance}.armed"
        self._seen = set(self._seen_file.read_text().splitlines()) if self._seen_file.exists() else set()
        self._version: tuple[int, int] | None = None
        self._armed: dict[str, int] = {}
        self._visits: Counter[str] = Counter()
        self._lock = Lock()

    def visit(self, name: str) -> None:
        """Come by a point; if it is the turn of this visit, do not return."""
        with self._lock:
            if name not in self._seen:
                self._seen.add(name)
                with self._seen_file.open("a") as file:
                    file.write(f"{name}\n")
            self._look()
            self._visits[name] += 1
            if self._visits[name] == self._armed.get(name):
                self._die(name)

    def _look(self) -> None:
        """See what is armed, if that changed."""
        try:
            status = self._armed_file.stat()
        except FileNotFoundError:
            self._version, self._armed = None, {}
            return
        if (version := (status.st_ino, status.st_mtime_ns)) != self._version:
            self._version, self._armed = version, read_armed(self._armed_file)
            self._visits.clear()

    def _die(self, name: str) -> NoReturn:
        left = {other: visit for other, visit in self._armed.items() if other != name}
        write_armed(self._armed_file, left)
        while True:
            os.kill(os.getpid(), signal.SIGKILL)


def read_armed(file: Path) -> dict[str, int]:
    """Return which visit of each armed point kills; nothing if there is no such file."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {name: int(visit) for visit, _, name in (line.partition(" ") for line in lines)}


def write_armed(file: Path, armed: dict[str, int]) -> None:
    """Arm these points, and no others."""
    draft = file.with_suffix(".draft")
    draft.write_text("".join(f"{visit} {name}\n" for name, visit in armed.items()))
    draft.replace(file)


def _of_this_process() -> CrashPoints | None:
    folder = os.environ.get(_VARIABLE)
    return CrashPoints(Path(folder), os.environ.get("WEFT_INSTANCE", "1")) if folder else None


_points = _of_this_process()


def reach(moment: Moment, mechanism: str, *through: object) -> None:
    """Come by the point before or after a mechanism, for each thing that passes `through` it: names, or functions."""
    if _points is not None:
        for one in through:
            _points.visit(f"{mechanism} of {_name_of(one)}: {moment}")


def _name_of(thing: object) -> str:
    """Return a name, or what to call a function: `place_order`, `Relay.mark`, `order-from-payment.apply`."""
    if isinstance(thing, str):
        return thing
    while isinstance(thing, partial):
        thing = thing.func
    # A function within a method has the method's name.
    path = getattr(thing, "__qualname__", type(thing).__qualname__).partition(".<locals>")[0]
    owner, _, function = path.rpartition(".")
    own_name = getattr(getattr(thing, "__self__", None), "name", owner)
    return f"{own_name}.{function.lstrip('_')}" if owner else function
