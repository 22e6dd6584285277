"""Orders through the whole system: how long one takes while nothing else happens, and how many it can take.

Over gRPC and through the gateway, by turns in one run.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from bench.doors import GRPC, REST
from bench.report import Figure, Target, number, percentile
from bench.stage import Broken
from bench.system import place_orders, weft_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.stage import Stage

IN_FLIGHT = 128
_P50, _P99 = Target(50), Target(200)
_RATE = Target(120, at_least=True)
_REST_TO_GRPC = Target(70, at_least=True)


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
        told = await place_orders(stage, system, IN_FLIGHT)
        stage.display.step("stopping the system")
    if told["lost"]:
        raise Broken(
            f"{len(told['lost'])} of {sum(told['accepted'].values())} accepted orders were not confirmed: "
            f"{told['lost'][:3]}"
        )
    # The targets are for services in processes of their own.
    aimed = not one_process
    rates = {door: [one["confirmed"] / one["seconds"] for one in rounds] for door, rounds in told["many"].items()}
    return [
        *(figure for door in (GRPC, REST) for figure in _alone(door, told["alone"][door], aimed)),
        _sustained(GRPC, rates[GRPC], told, _RATE if aimed else None),
        _sustained(REST, rates[REST], told),
        _compared(rates, aimed),
        *(figure for door in (GRPC, REST) for figure in _under_load(door, told["many"][door])),
    ]


def _alone(door: str, told: dict[str, Any], aimed: bool) -> Sequence[Figure]:
    took, answered = told["confirmed_ms"], told["answered_ms"]
    parts = {"CreateOrder answered": percentile(answered, 50)}
    return [
        Figure(f"idle, place to confirmed, p50, {door}", percentile(took, 50), "ms", _P50 if aimed else None, parts),
        Figure(f"idle, place to confirmed, p99, {door}", percentile(took, 99), "ms", _P99 if aimed else None),
    ]


def _sustained(door: str, rates: Sequence[float], told: dict[str, Any], target: Target | None = None) -> Figure:
    refused = f"; refused: {told['refused'][door]}" if told["refused"][door] else ""
    note = f"rounds: {', '.join(map(number, rates))}; {told['accepted'][door]:,} orders, all confirmed{refused}"
    rate = statistics.median(rates)
    return Figure(f"sustained, {IN_FLIGHT} orders in flight, {door}", rate, "orders/s", target, note=note)


def _compared(rates: dict[str, list[float]], aimed: bool) -> Figure:
    ratios = [rest / max(grpc, 1e-9) * 100 for grpc, rest in zip(rates[GRPC], rates[REST], strict=True)]
    note = "rounds: " + ", ".join(map(number, ratios))
    target = _REST_TO_GRPC if aimed else None
    return Figure("sustained, REST of gRPC", statistics.median(ratios), "%", target, note=note)


def _under_load(door: str, rounds: Sequence[dict[str, Any]]) -> Sequence[Figure]:
    took = [one for each in rounds for one in each["confirmed_ms"]]
    answered = [one for each in rounds for one in each["answered_ms"]]
    seconds, confirmed = sum(one["seconds"] for one in rounds), sum(one["confirmed"] for one in rounds)
    cpu = {name: sum(one["cpu"][name] for one in rounds) for name in rounds[0]["cpu"]}
    machine = f"the whole machine {cpu.pop('the whole machine') / seconds * 100:.0f} %"
    parts = {name: spent / seconds * 100 for name, spent in sorted(cpu.items(), key=lambda one: -one[1])}
    system = sum(cpu.values()) - cpu["these customers"]
    return [
        Figure(f"under it, place to confirmed, p50, {door}", percentile(took, 50), "ms"),
        Figure(f"under it, place to confirmed, p99, {door}", percentile(took, 99), "ms"),
        Figure(f"under it, CreateOrder answered, p50, {door}", percentile(answered, 50), "ms"),
        Figure(
            f"under it, CPU of all processes, {door}", sum(parts.values()), "% of a core", parts=parts, note=machine
        ),
        Figure(f"under it, CPU of the system for one order, {door}", system * 1000 / max(confirmed, 1), "ms"),
    ]
