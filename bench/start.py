"""How long `weft up` takes from the command to ready, and the memory that its processes hold while idle."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING

from bench.report import Figure, Target, number
from bench.system import weft_up
from cli.system import SERVICES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.stage import Stage

_READY = Target(8)
_MEMORY = Target(130)
_SETTLING = 3.0


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure with a process for each service, then with one for all."""
    times, memory = await _start(stage, stage.scale.starts)
    again, _ = await _start(stage, 1, fresh=False)
    alone, together = await _start(stage, stage.scale.starts, one_process=True)
    services = {name: size for name, size in memory.items() if name in SERVICES}
    others = {name: size for name, size in memory.items() if name not in SERVICES}
    return [
        Figure("start to ready, empty folder", statistics.median(times), "s", _READY, note=_each(times)),
        Figure("start to ready, on its data", again[-1], "s", _READY),
        Figure("start to ready, one process, empty folder", statistics.median(alone), "s", note=_each(alone)),
        Figure("memory of an idle service, the largest", max(services.values()), "MiB", _MEMORY, services),
        Figure("memory of all, idle", sum(memory.values()), "MiB", parts=others, note="shared pages counted each time"),
        Figure("memory of all, idle, one process", sum(together.values()), "MiB", parts=together),
    ]


async def _start(
    stage: Stage, times: int, *, fresh: bool = True, one_process: bool = False
) -> tuple[list[float], dict[str, float]]:
    """Start the system so many times; return the seconds, and the memory of the last one's processes."""
    seconds: list[float] = []
    memory: dict[str, float] = {}
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


def _each(seconds: Sequence[float]) -> str:
    return f"{len(seconds)} starts: " + ", ".join(number(one) for one in seconds)
