"""How long `weft up` takes from the command to ready, and the memory that its processes hold while idle."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING

from bench.report import Figure, Target, number
from bench.system import weft_up
from cli.system import GATEWAY, SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.stage import Stage
    from bench.system import Memory

_READY = Target(8)
_MEMORY = Target(130)
_MEMORY_TOGETHER = Target(260)
_SETTLING = 3.0
_TOGETHER = "services"


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure with a process for each service, then with one for all."""
    times, memory = await _start(stage, stage.scale.starts)
    again, _ = await _start(stage, 1, fresh=False)
    alone, together = await _start(stage, stage.scale.starts, one_process=True)
    return [
        Figure("start to ready, empty folder", statistics.median(times), "s", _READY, note=_each(times)),
        Figure("start to ready, on its data", again[-1], "s", _READY),
        Figure("start to ready, one process, empty folder", statistics.median(alone), "s", note=_each(alone)),
        *_apart(memory),
        *_together(together),
    ]


async def _start(
    stage: Stage, times: int, *, fresh: bool = True, one_process: bool = False
) -> tuple[list[float], dict[str, Memory]]:
    """Start the system so many times; return the seconds, and the memory of the last one's processes."""
    seconds: list[float] = []
    memory: dict[str, Memory] = {}
    folder = stage.new_folder("start")
    for n in range(times if fresh else times + 1):
        what = "all in one process" if one_process else "a process for each service"
        stage.display.step(f"starting, {what} ({n + 1})")
        if fresh and n:
            folder = stage.new_folder("start")
        async with weft_up(folder, one_process=one_process) as system:
            seconds.append(system.seconds)
            if n == times - 1:
                await asyncio.sleep(_SETTLING)
                memory = system.memory()
    return seconds, memory


def _apart(memory: Mapping[str, Memory]) -> Sequence[Figure]:
    services = {name: memory[name] for name in SERVICES}
    resident = {name: one.resident for name, one in services.items()}
    proportional = {name: one.proportional for name, one in services.items()}
    return [
        Figure("memory of an idle service, the largest", max(resident.values()), "MB", _MEMORY, resident),
        Figure("  of it its own and its part of what is shared", max(proportional.values()), "MB", parts=proportional),
        _memory("memory of the idle gateway", memory[GATEWAY]),
        _all("memory of all processes, idle", memory, (*SERVICES, GATEWAY)),
    ]


def _together(memory: Mapping[str, Memory]) -> Sequence[Figure]:
    return [
        _memory("memory of all of Weft in one process, idle", memory[_TOGETHER], _MEMORY_TOGETHER),
        _all("memory of all processes, idle, one for all of Weft", memory, (_TOGETHER,)),
    ]


def _memory(what: str, memory: Memory, target: Target | None = None) -> Figure:
    return Figure(what, memory.resident, "MB", target, {"PSS": memory.proportional})


def _all(what: str, memory: Mapping[str, Memory], told: Sequence[str]) -> Figure:
    """Add up what all processes hold; those in `told` have figures of their own."""
    others = {name: one.resident for name, one in memory.items() if name not in told}
    shared = sum(one.proportional for one in memory.values())
    return Figure(what, sum(one.resident for one in memory.values()), "MB", parts={"PSS of all": shared, **others})


def _each(seconds: Sequence[float]) -> str:
    return f"{len(seconds)} starts: " + ", ".join(number(one) for one in seconds)
