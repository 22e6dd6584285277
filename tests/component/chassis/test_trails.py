"""What follows from one request keeps its trace and correlation id, and names the event that caused it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import on_sqlite, restock
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.component.chassis.world import World

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
STATE = "vendor=value"


def trail(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what an event goes back to."""
    return {
        "trace": headers.get("traceparent", "")[3:35],
        "state": headers.get("tracestate", ""),
        "correlation": headers.get("weft-correlation-id", ""),
        "causation": headers.get("weft-causation-id", ""),
    }


async def trails(world: World, suffix: str, account: str = "a") -> list[dict[str, str]]:
    """Return what the published events of one type and aggregate go back to."""
    await world.until_published()
    found = [event for event in await world.feed.published() if event.type.endswith(suffix)]
    return [trail(event.headers) for event in found if event.aggregate_id == account]


async def test_what_a_call_changes_is_published_in_its_trace(world: World) -> None:
    async with world.running() as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc.port}") as channel:
            stub: Any = InventoryServiceStub(channel)  # type: ignore[no-untyped-call]
            await stub.Restock(restock("a"), metadata=(("traceparent", PARENT), ("tracestate", STATE)))
        expected = {"trace": TRACE_ID, "state": STATE, "correlation": "a", "causation": ""}
        assert await trails(world, "Reserved") == [expected]
        assert await trails(world, "Updated") == [expected]
        [row] = world.rows("SELECT DISTINCT traceparent, tracestate FROM outbox")
        assert (row[0][3:35], row[1]) == (TRACE_ID, STATE)


async def test_a_call_without_a_trace_begins_one(world: World) -> None:
    async with world.running() as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc.port}") as channel:
            stub: Any = InventoryServiceStub(channel)  # type: ignore[no-untyped-call]
            await stub.Restock(restock("a"))
            await stub.Restock(restock("b"))
        [first], [second] = await trails(world, "Reserved"), await trails(world, "Reserved", "b")
    assert len(first["trace"]) == len(second["trace"]) == 32
    assert first["trace"] != second["trace"]


async def send(world: World, then: str = "") -> dict[str, str]:
    """Send a task that belongs to a trace and a request; return what its effects must go back to."""
    more = {"traceparent": PARENT, "tracestate": STATE, "weft_correlation_id": "request-1"}
    [event_id] = await world.feed.send(task("a", 1, then), **more)
    return {"trace": TRACE_ID, "state": STATE, "correlation": "request-1", "causation": event_id}


async def test_what_an_event_causes_goes_back_to_it(world: World) -> None:
    async with world.running():
        expected = await send(world)
        await world.until_seen("a", [1])
        assert await trails(world, "Reserved") == [expected]
        assert await trails(world, "Updated") == [expected]


async def test_an_event_goes_back_to_the_one_that_caused_it_and_not_to_others_of_its_batch(world: World) -> None:
    ids = []
    for number in range(20):
        trace = f"00-{number + 1:032x}-b7ad6b7169203331-01"
        ids += await world.feed.send(
            task("a", number), traceparent=trace, weft_correlation_id=f"request-{number}"
        )
    async with world.running():
        await world.until_seen("a", range(20))
        assert await trails(world, "Reserved") == [
            {"trace": f"{n + 1:032x}", "state": "", "correlation": f"request-{n}", "causation": ids[n]}
            for n in range(20)
        ]
        # The state is told once: it goes back to the last event that changed it.
        assert (await trails(world, "Updated"))[-1]["causation"] == ids[-1]


async def test_an_event_that_was_parked_keeps_its_trail(world: World) -> None:
    toy = Toy()
    async with world.running(toy):
        expected = await send(world, "fail:2")
        await world.until_seen("a", [1])
        assert await trails(world, "Reserved") == [expected]
    assert toy.tries["a/1"] == 3


@pytest.mark.parametrize("promise", ["ask:it", "later:50", "published:50", "patient:50"])
async def test_what_a_promise_leads_to_keeps_the_trail_of_who_made_it(world: World, promise: str) -> None:
    toy = Toy()
    toy.answer = _Forgetful()
    async with world.running(toy):
        expected = await send(world, promise)
        await eventually(lambda: world.rows.notes("a"))
        assert await trails(world, "Released") == [expected]


class _Forgetful:
    """Answers only when it is asked again."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, key: str) -> str:
        self.calls += 1
        if self.calls == 1:
            raise TimeoutError("no answer came")
        return "yes"


async def test_a_call_to_the_outside_is_made_within_the_trace(world: World) -> None:
    toy = Toy()
    seen = []
    async with world.running(toy) as service:
        toy.answer = lambda _: seen.append(service.tracing.current())
        await send(world, "ask:it")
        await eventually(lambda: seen)
    assert (seen[0].trace_id, seen[0].tracestate) == (TRACE_ID, STATE)


@on_sqlite
@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "00-zz-b7ad6b7169203331-01"},
        {"traceparent": "x" * 5000},
        {"traceparent": PARENT + "-more"},
        {"weft_correlation_id": "x" * 5000},
        {"weft_correlation_id": "with spaces, and more"},
    ],
)
async def test_a_trail_that_is_malformed_is_not_passed_on(world: World, headers: dict[str, str]) -> None:
    async with world.running():
        [event_id] = await world.feed.send(task("a", 1), **headers)
        await world.until_seen("a", [1])
        [found] = await trails(world, "Reserved")
    assert found == {"trace": "", "state": "", "correlation": "a", "causation": event_id}
