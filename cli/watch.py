"""`weft order watch`: shows the states of an order as they come, and goes on by itself when it is cut off."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from cli.display import clock_time, make_console, order_state
from cli.errors import CallFailed
from cli.remote import reach
from cli.rest import at, read
from commerce.order.v1 import order_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cli.remote import Gateway, Target
    from cli.rest import Answer

_PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0)
"""Seconds to wait before each of the tries after a cut; then it is given up."""
_LONG_ENOUGH = "DEADLINE_EXCEEDED"
"""How a gateway ends a stream that it has had for long enough."""
_ENDED = (pb.ORDER_STATE_COMPLETED, pb.ORDER_STATE_CANCELLED)


async def watch(target: Target, order_id: str) -> int:
    """Print an order's state now and whenever it changes; return 0 when nothing can change any more."""
    async with reach(target) as gateway:
        await show_states(gateway, order_id, as_json=target.json)
    return 0


async def show_states(gateway: Gateway, order_id: str, *, as_json: bool) -> None:
    """Print states as they come: a line each, and as JSON the whole order on one."""
    console = make_console()
    async with aclosing(states(gateway, order_id)) as found:
        async for answer in found:
            if as_json:
                print(json.dumps(answer), flush=True)
            else:
                order = read(answer, pb.Order())
                console.print(f"{clock_time(order.update_time):<10}{order_state(order)}")


async def states(gateway: Gateway, order_id: str) -> AsyncGenerator[Answer, None]:
    """Yield an order as it is, and again whenever it changed, each state once however often the stream is cut off.

    Raises `CallFailed` for a refusal, and when there was nothing but failures for half a minute.
    """
    path, last_id, failures = at("/v1/orders/{}:watch", order_id), "", 0
    while True:
        try:
            async with aclosing(gateway.events(path, last_id)) as events:
                async for event in events:
                    last_id, failures, answer = event.id, 0, json.loads(event.data)
                    yield answer
                    if read(answer, pb.Order()).state in _ENDED:
                        return
            return
        except CallFailed as failed:
            is_over = failed.code == _LONG_ENOUGH and bool(last_id)
            if is_over:
                failures = 0
            elif failed.code != "UNAVAILABLE" or not last_id or failures == len(_PAUSES):
                raise
            elif not failures:
                print(f"weft: {failed}; trying again", file=sys.stderr)
        await asyncio.sleep(_PAUSES[failures])
        failures += not is_over
