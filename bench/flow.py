"""Orders through the whole system: how long one takes while nothing else happens, and how many it can take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import Figure, Target, number, percentile
from bench.stage import Broken
from bench.system import place_orders, weft_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.stage import Stage

IN_FLIGHT = 128
_P50, _P99 = Target(50), Target(200)
_RATE = Target(120, at_least=True)


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure with a process for each service."""
    return await _measure(stage, one_process=False)


async def measure_one_process(stage: Stage) -> Sequence[Figure]:
    """Measure with all services in one process."""
    return await _measure(stage, one_process=True)


async def _measure(stage: Stage, *, one_process: bool) -> Sequence[Figure]:
    folder = stage.new_folder("one-process" if one_process else "flow")
    stage.display.step("starting the system")
    async with weft_up(folder, one_process=one_process) as system:
        told = await place_orders(stage, system, IN_FLIGHT, stage.scale.orders)
        stage.display.step("stopping the system")
    if told["lost"]:
        raise Broken(
            f"{len(told['lost'])} of {told['accepted']} accepted orders were not confirmed: {told['lost'][:3]}"
        )
    # The targets are for services in processes of their own.
    return [*_alone(told["alone"], not one_process), *_many(told, not one_process)]


def _alone(told: dict[str, Any], aimed: bool) -> Sequence[Figure]:
    took, answered = told["confirmed_ms"], told["answered_ms"]
    parts = {"CreateOrder answered": percentile(answered, 50)}
    return [
        Figure("idle, place to confirmed, p50", percentile(took, 50), "ms", _P50 if aimed else None, parts),
        Figure("idle, place to confirmed, p99", percentile(took, 99), "ms", _P99 if aimed else None),
    ]


def _many(told: dict[str, Any], aimed: bool) -> Sequence[Figure]:
    many = told["many"]
    rate = many["confirmed"] / many["seconds"]
    thirds = ", ".join(number(third) for third in many["thirds"])
    note = f"{many['seconds']:.0f} s; its thirds: {thirds}; {told['accepted']:,} orders accepted, all confirmed"
    if many["refused"]:
        note += f"; refused: {many['refused']}"
    cpu = dict(many["cpu"])
    machine = f"the whole machine {cpu.pop('the whole machine'):.0f} %"
    parts = dict(sorted(cpu.items(), key=lambda one: -one[1]))
    system = sum(cpu.values()) - cpu["these customers"]
    return [
        Figure(f"sustained, {IN_FLIGHT} orders in flight", rate, "orders/s", _RATE if aimed else None, note=note),
        Figure("  place to confirmed under it, p50", percentile(many["confirmed_ms"], 50), "ms"),
        Figure("  place to confirmed under it, p99", percentile(many["confirmed_ms"], 99), "ms"),
        Figure("  CreateOrder answered under it, p50", percentile(many["answered_ms"], 50), "ms"),
        Figure("  CPU under it, all processes", sum(cpu.values()), "% of a core", parts=parts, note=machine),
        Figure("  CPU of the system for one order", system * 10 / max(rate, 1e-9), "ms"),
    ]
