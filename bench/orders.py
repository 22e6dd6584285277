"""`python -m bench.orders DIR` places orders in the system that runs in DIR, and waits until each is confirmed.

A process of its own, so that the load costs the system nothing but its share of the machine. Prints one JSON
object a line: `{"step": text}` while it works, `{"result": ...}` at its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import uvloop

from bench.market import Market
from bench.stage import Broken, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_REST = 0.02


async def one_at_a_time(market: Market, times: int) -> dict[str, Any]:
    """Place orders in an idle system; return milliseconds."""
    customers = market.customers
    took: list[float] = []
    answered: list[float] = []
    for n in range(times // 10 + times):
        order_id = await customers.order()
        if order_id is None:
            raise Broken(f"an order was refused: {customers.refused}")
        one = customers.placed[order_id]
        if n >= times // 10:  # those before are to warm up
            took.append((one.confirmed - one.asked) * 1000)
            answered.append((one.answered - one.asked) * 1000)
        await asyncio.sleep(_REST)
    return {"confirmed_ms": took, "answered_ms": answered}


async def many(market: Market, in_flight: int, warming: float, seconds: float) -> dict[str, Any]:
    """Keep `in_flight` orders between their request and their confirmation; return what happened in `seconds`."""
    customers = market.customers
    stop = asyncio.Event()

    async def keep_ordering() -> None:
        while not stop.is_set():
            if await customers.order() is None:
                await asyncio.sleep(0.1)

    known = set(customers.placed)
    everybody = [asyncio.create_task(keep_ordering()) for _ in range(in_flight)]
    try:
        await _or_failure(everybody, warming)
        cpu, begin = _cpu(market.processes()), time.perf_counter()
        await _or_failure(everybody, seconds)
        after, end = _cpu(market.processes()), time.perf_counter()
        stop.set()
        await asyncio.gather(*everybody)
    finally:
        for one in everybody:
            one.cancel()
    mine = [one for order_id, one in customers.placed.items() if order_id not in known]
    inside = [one for one in mine if begin <= one.confirmed < end]
    thirds = [0, 0, 0]
    for order in inside:
        thirds[min(2, int((order.confirmed - begin) / (end - begin) * 3))] += 1
    return {
        "seconds": end - begin,
        "confirmed": len(inside),
        "thirds": [count / (end - begin) * 3 for count in thirds],
        "confirmed_ms": [(one.confirmed - one.asked) * 1000 for one in inside],
        "answered_ms": [(one.answered - one.asked) * 1000 for one in inside],
        "cpu": {name: (after[name] - cpu[name]) / (end - begin) * 100 for name in after},
        "refused": customers.refused,
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


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def _main(options: argparse.Namespace) -> None:
    async with Market(options.data) as market:
        _tell(step="putting products on sale")
        await market.fill()
        _tell(step=f"{options.one_at_a_time} orders, one at a time")
        alone = await one_at_a_time(market, options.one_at_a_time)
        _tell(step=f"{options.in_flight} orders in flight, {options.seconds:g} s")
        crowd = await many(market, options.in_flight, options.warming, options.seconds)
        _tell(step="looking for lost orders")
        accepted = set(market.customers.placed)
        lost = accepted - await market.confirmed_orders()
        _tell(result={"alone": alone, "many": crowd, "accepted": len(accepted), "lost": sorted(lost)})


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.orders", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--one-at-a-time", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--warming", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    try:
        uvloop.run(_main(options))
    except Broken as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
