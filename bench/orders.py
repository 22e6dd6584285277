"""`python -m bench.orders DIR` places orders in the system that runs in DIR, and waits until each is confirmed.

Over gRPC and through the gateway in turns, so that both meet the same machine. A process of its own, so that the load
costs the system nothing but its share of it. Prints one JSON object a line: `{"step": text}` while it works,
`{"result": ...}` at its end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import uvloop

from bench.doors import GRPC, REST
from bench.market import Market
from bench.stage import Broken, cpu_seconds, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DOORS = (GRPC, REST)
_PAUSE = 0.02


async def one_at_a_time(market: Market, times: int) -> dict[str, Any]:
    """Place orders in an idle system, by each door in turn; return milliseconds by door."""
    customers = market.customers
    took: dict[str, Any] = {door: {"confirmed_ms": [], "answered_ms": []} for door in _DOORS}
    for n in range(times // 10 + times):
        for door in _DOORS:
            order_id = await customers.order(door)
            if order_id is None:
                raise Broken(f"an order by {door} was refused: {dict(customers.refused[door])}")
            one = customers.placed[order_id]
            if n >= times // 10:  # those before are to warm up
                took[door]["confirmed_ms"].append((one.confirmed - one.asked) * 1000)
                took[door]["answered_ms"].append((one.answered - one.asked) * 1000)
            await asyncio.sleep(_PAUSE)
    return took


async def many(market: Market, in_flight: int, rounds: int, warming: float, seconds: float) -> dict[str, Any]:
    """Keep `in_flight` orders between their request and their confirmation, and measure each door for `seconds`.

    Return, by door, what happened in each of the rounds. The load goes on meanwhile, and when it changes doors
    nothing counts for `warming` seconds.
    """
    customers = market.customers
    stop = asyncio.Event()
    door = _DOORS[0]

    async def keep_ordering() -> None:
        while not stop.is_set():
            if await customers.order(door) is None:
                await asyncio.sleep(0.1)

    everybody = [asyncio.create_task(keep_ordering()) for _ in range(in_flight)]
    told: dict[str, list[Any]] = {one: [] for one in _DOORS}
    try:
        for n in range(rounds):
            for door in _DOORS:
                tell(step=f"{in_flight} orders in flight by {door}, {seconds:g} s, round {n + 1} of {rounds}")
                await _or_failure(everybody, warming)
                told[door].append(await _measure(market, door, everybody, seconds))
        stop.set()
        await asyncio.gather(*everybody)
    finally:
        for one in everybody:
            one.cancel()
    return told


async def _measure(market: Market, door: str, everybody: Sequence[asyncio.Task[None]], seconds: float) -> Any:
    cpu, begin = _cpu(market.processes()), time.perf_counter()
    await _or_failure(everybody, seconds)
    after, end = _cpu(market.processes()), time.perf_counter()
    inside = [one for one in market.customers.placed.values() if one.door == door and begin <= one.confirmed < end]
    return {
        "seconds": end - begin,
        "confirmed": len(inside),
        "confirmed_ms": [(one.confirmed - one.asked) * 1000 for one in inside],
        "answered_ms": [(one.answered - one.asked) * 1000 for one in inside],
        "cpu": {name: (after[name] - cpu[name]) for name in after},
    }


async def _or_failure(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Sleep, unless one of the tasks fails."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    whole = psutil.cpu_times()
    busy = sum(whole) - whole.idle - getattr(whole, "iowait", 0.0) - getattr(whole, "guest", 0.0)
    return {**{name: cpu_seconds(pid) for name, pid in pids.items()}, "the whole machine": busy}


async def _main(options: argparse.Namespace) -> None:
    async with Market(options.data) as market:
        tell(step="putting products on sale")
        await market.fill()
        tell(step=f"{options.one_at_a_time} orders by each door, one at a time")
        alone = await one_at_a_time(market, options.one_at_a_time)
        crowd = await many(market, options.in_flight, options.rounds, options.warming, options.seconds)
        tell(step="looking for lost orders")
        placed = market.customers.placed
        lost = sorted(placed.keys() - await market.confirmed_orders())
        accepted = Counter(one.door for one in placed.values())
        refused = {door: market.customers.refused[door] for door in _DOORS}
        tell(result={"alone": alone, "many": crowd, "refused": refused, "accepted": accepted, "lost": lost})


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.orders", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--one-at-a-time", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warming", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    try:
        uvloop.run(_main(options))
    except Broken as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
