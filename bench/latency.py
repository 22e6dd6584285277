"""How long one event takes through an idle service: from its publication to what it causes in the next stream."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from bench.databases import backends
from bench.inventory import run_inventory
from bench.report import Figure, Target, percentile
from bench.stage import Broken
from commerce.inventory.v1.inventory_events_pb2 import InventoryReserved
from weft.events import stream_of, subject_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.msg import Msg

    from bench.inventory import Inventory
    from bench.stage import Stage

_TARGET = Target(6)
_WARMING = 20
_PATIENCE = 10.0
_REST = (0.01, 0.03)


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure on both databases."""
    figures: list[Figure] = []
    async with backends(stage) as both:
        for backend in both:
            async with run_inventory(stage, backend) as inventory:
                stage.display.step(f"{backend.name}: {stage.scale.probes} single events")
                took = await _probe(inventory, stage.scale.probes)
            figures += [
                Figure(f"{backend.name}, publish to visible, p50", percentile(took, 50), "ms", _TARGET),
                Figure(f"{backend.name}, publish to visible, p99", percentile(took, 99), "ms"),
            ]
    return figures


async def _probe(inventory: Inventory, times: int) -> list[float]:
    """Return milliseconds, one for each event."""
    seen: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    async def note(message: Msg) -> None:
        seen.put_nowait((message.subject.rpartition(".")[2], time.perf_counter()))

    subject = subject_of(InventoryReserved.DESCRIPTOR.full_name, "*")
    # From the stream, as a service reads it: what is visible there is on the disk.
    subscription = await inventory.broker.js.subscribe(
        subject, stream=stream_of("commerce.inventory"), ordered_consumer=True, cb=note
    )
    took = []
    for _ in range(_WARMING + times):
        start = time.perf_counter()
        order_id = await inventory.publish_one()
        visible, end = await asyncio.wait_for(seen.get(), _PATIENCE)
        if visible != order_id:
            raise Broken(f"InventoryReserved of {visible} came instead of that of {order_id}")
        took.append((end - start) * 1000)
        # Different each time, so that nothing falls into step with it.
        await asyncio.sleep(random.uniform(*_REST))
    await subscription.unsubscribe()
    return took[_WARMING:]
