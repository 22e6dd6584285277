"""Promises are kept: calls until their outcome is known, timers when they are due and not before."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from commerce.order.v1.order_events_pb2 import OrderConfirmed
from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import on_sqlite
from weft import intents
from weft.clock import ManualClock
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import World
    from weft import UnitOfWork


def promise(work: UnitOfWork, kind: str, key: str, seconds: float = 0.0) -> None:
    """Promise to act."""
    work.intend(kind, key, {"key": key}, after=timedelta(seconds=seconds))


def ask_all(work: UnitOfWork, count: int) -> None:
    """Promise many calls at once."""
    for number in range(count):
        work.intend("ask", f"k{number:02d}", {"n": number})


def withdraw(work: UnitOfWork, kind: str, key: str) -> None:
    """Take a promise back."""
    work.withdraw(kind, key)


async def settled(world: World) -> None:
    """Wait until nothing is promised any more."""
    await eventually(lambda: world.rows.count("intents") == 0, what="all promises are kept")


class Trouble:
    """An outside that does not answer for the first `times` calls."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, key: str) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise TimeoutError("no answer came")
        return "at last"


async def test_a_call_whose_answer_never_came_is_made_again_with_the_same_key_until_it_is_known(world: World) -> None:
    toy = Toy()
    toy.answer = Trouble(3)
    async with world.running(toy) as service:
        await service.writer.run(promise, "ask", "k")
        await settled(world)
        assert toy.asked == [("ask-k", {"key": "k"})] * 4
        assert world.rows.notes("k") == ["answered at last"]


@on_sqlite
async def test_a_call_that_hangs_is_given_up_and_made_again(world: World) -> None:
    toy = Toy()
    hanging = [True]

    async def answer() -> str:
        if hanging.pop() if hanging else False:
            await asyncio.Event().wait()
        return "later"

    toy.answer = lambda _: answer()
    service = world.build(toy)
    service._kinds[0] = intents.Intent("ask", toy.ask, toy.settle, timeout=0.1)
    try:
        await service.start()
        await service.writer.run(promise, "ask", "k")
        await settled(world)
    finally:
        await service.stop()
    assert [key for key, _ in toy.asked] == ["ask-k", "ask-k"]


@on_sqlite
async def test_at_most_so_many_calls_run_at_once_and_all_are_made(world: World) -> None:
    toy = Toy()
    gate = asyncio.Event()

    async def answer() -> str:
        await gate.wait()
        return "yes"

    toy.answer = lambda _: answer()
    async with world.running(toy, intents_at_once=5) as service:
        await service.writer.run(ask_all, 17)
        await eventually(lambda: toy.now_asking == 5)
        gate.set()
        await settled(world)
    assert toy.most_asking == 5
    assert sorted(key for key, _ in toy.asked) == [f"ask-k{n:02d}" for n in range(17)]


@on_sqlite
async def test_timers_fire_while_all_calls_wait_for_their_answers(world: World) -> None:
    toy = Toy()
    toy.answer = lambda _: asyncio.Event().wait()
    async with world.running(toy, intents_at_once=2) as service:
        await service.writer.run(ask_all, 10)
        await eventually(lambda: toy.now_asking == 2)
        await service.writer.run(promise, "alarm", "t")
        await eventually(lambda: toy.fired == ["t"])


@on_sqlite
async def test_an_outcome_is_recorded_once_though_saving_it_fails(world: World) -> None:
    toy = Toy()
    failures = iter([RuntimeError("told to fail"), RuntimeError("told to fail")])

    def settling(_: str) -> None:
        for failure in failures:
            raise failure

    toy.settling = settling
    async with world.running(toy) as service:
        await service.writer.run(promise, "ask", "k")
        await settled(world)
        assert world.rows.notes("k") == ["answered yes"]
    assert {key for key, _ in toy.asked} == {"ask-k"}


async def test_outcomes_that_come_together_are_recorded_each_for_itself(world: World) -> None:
    toy = Toy()
    bad = {"k03"}

    def settling(key: str) -> None:
        if key in bad:
            raise RuntimeError("told to fail")

    toy.settling = settling
    async with world.running(toy, retry_cap=0.05) as service:
        await service.writer.run(ask_all, 8)
        await eventually(lambda: world.rows("SELECT key FROM intents") == [("k03",)])
        bad.clear()
        await settled(world)
        assert all(world.rows.notes(f"k{n:02d}") == ["answered yes"] for n in range(8))


@on_sqlite
async def test_a_promise_that_is_open_is_not_made_twice(world: World) -> None:
    toy = Toy()
    gate = asyncio.Event()
    toy.answer = lambda _: gate.wait()
    async with world.running(toy) as service:
        await service.writer.run(promise, "ask", "k")
        await eventually(lambda: toy.asked)
        await service.writer.run(promise, "ask", "k")
        gate.set()
        await settled(world)
    assert len(toy.asked) == 1


@on_sqlite
async def test_an_outcome_is_not_recorded_for_a_promise_that_was_made_anew(world: World) -> None:
    """The first was withdrawn while it was asked for: its answer says nothing of the second."""
    toy = Toy()
    gates = {1: asyncio.Event(), 2: asyncio.Event()}

    async def answer() -> str:
        number = len(toy.asked)
        await gates[number].wait()
        return f"answer {number}"

    toy.answer = lambda _: answer()
    async with world.running(toy) as service:
        await service.writer.run(promise, "ask", "k")
        await eventually(lambda: len(toy.asked) == 1)
        await service.writer.run(withdraw, "ask", "k")
        await service.writer.run(promise, "ask", "k")
        gates[1].set()
        await eventually(lambda: len(toy.asked) == 2)
        gates[2].set()
        await settled(world)
        assert world.rows.notes("k") == ["answered answer 2"]


@on_sqlite
async def test_a_crash_between_the_call_and_its_record_calls_again_with_the_same_key(world: World) -> None:
    process = world.process()
    await world.feed.send(task("k", 1, "ask:something"))
    asked = world.folder / "asked"
    await eventually(lambda: asked.read_text() == "ask-k\n", 20, "the call is made")
    process.kill()
    (world.folder / "answer").touch()
    process.start()
    await eventually(lambda: world.rows.notes("k") == ["answered yes"], 20)
    assert asked.read_text() == "ask-k\nask-k\n"


@on_sqlite
async def test_calls_go_on_after_the_service_was_stopped_in_their_midst(world: World) -> None:
    toy = Toy()
    toy.answer = lambda _: asyncio.Event().wait()
    async with world.running(toy) as service:
        await service.writer.run(promise, "ask", "k")
        await eventually(lambda: toy.asked)
    toy.answer = lambda _: "yes"
    async with world.running(toy):
        await settled(world)
    assert [key for key, _ in toy.asked] == ["ask-k"] * 2


async def test_timers_fire_when_they_are_due_though_others_are_not(world: World) -> None:
    toy = Toy()
    clock = ManualClock(datetime.now(UTC))
    async with world.running(toy, clock) as service:
        for seconds in (100, 10, 1000):
            await service.writer.run(promise, "alarm", f"in-{seconds}", seconds)
        clock.advance(timedelta(seconds=11))
        await eventually(lambda: toy.fired == ["in-10"])
        clock.advance(timedelta(seconds=100))
        await eventually(lambda: toy.fired == ["in-10", "in-100"])
        await eventually(lambda: world.rows("SELECT key FROM intents") == [("in-1000",)])


@on_sqlite
async def test_a_timer_that_was_withdrawn_does_not_fire(world: World) -> None:
    toy = Toy()
    clock = ManualClock(datetime.now(UTC))
    async with world.running(toy, clock) as service:
        await service.writer.run(promise, "alarm", "a", 10)
        await service.writer.run(promise, "alarm", "b", 10)
        await service.writer.run(withdraw, "alarm", "a")
        clock.advance(timedelta(seconds=11))
        await settled(world)
    assert toy.fired == ["b"]


async def test_a_timer_of_a_publication_starts_when_its_event_is_with_the_broker(world: World) -> None:
    toy = Toy()
    clock = ManualClock(datetime.now(UTC))
    query = "SELECT due_at FROM intents"
    async with world.running(toy, clock) as service:
        await world.nats.kill()
        await service.writer.run(_deposit_and_promise, "a")
        assert world.rows(query) == [(None,)]
        clock.advance(timedelta(seconds=100))
        await world.nats.start()
        await eventually(lambda: world.rows(query) not in ([(None,)], []))
        await world.until_published()
        [(published_at,)] = world.rows("SELECT MAX(published_at) FROM outbox WHERE type LIKE '%Reserved'")
        assert world.rows(query) == [(published_at + 5_000_000,)]
        assert toy.fired == []
        clock.advance(timedelta(seconds=6))
        await settled(world)
    assert toy.fired == ["a"]


def _deposit_and_promise(work: UnitOfWork, key: str) -> None:
    from tests.component.chassis.toy import deposit

    deposit(work, key, 1)
    work.intend("alarm", key, {}, after=timedelta(seconds=5), once_published=True)


@on_sqlite
async def test_a_patient_timer_waits_until_the_streams_are_handled(world: World) -> None:
    """The answer that it would miss is in the stream already."""
    toy = Toy(world.folder)
    async with world.running(toy, batch_size=1) as service:
        await world.feed.send(task("x", 0, "wait:here"))
        await eventually(lambda: (world.folder / "here.reached").exists())
        await world.feed.send(OrderConfirmed(order_id="a"))
        promising = asyncio.create_task(service.writer.run(promise, "patient", "a"))
        another = asyncio.create_task(service.writer.run(promise, "patient", "b"))
        (world.folder / "here.go").touch()
        await asyncio.gather(promising, another)
        await settled(world)
        # Confirmed: its timer was withdrawn, though it was due before.
        assert world.rows.notes("a") == ["confirmed"]
    assert toy.fired == ["b"]


@on_sqlite
async def test_a_patient_timer_does_not_fire_before_it_is_told_that_the_streams_are_handled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, handled = Toy(), asyncio.Event()
    async with world.running(toy) as service:
        monkeypatch.setattr(service.consumers[0], "caught_up", handled.wait)
        await service.writer.run(promise, "patient", "a")
        await service.writer.run(promise, "alarm", "impatient")
        await eventually(lambda: toy.fired)
        assert toy.fired == ["impatient"]
        handled.set()
        await eventually(lambda: toy.fired == ["impatient", "a"])


@on_sqlite
async def test_a_patient_timer_waits_for_the_broker_and_for_what_was_in_its_stream(world: World) -> None:
    toy = Toy()
    async with world.running(toy) as service:
        await world.feed.send(task("x", 0))
        await world.until_seen("x", [0])
        await world.nats.kill()
        await service.writer.run(promise, "patient", "a")
        await service.writer.run(promise, "alarm", "impatient")
        await eventually(lambda: toy.fired == ["impatient"])
        # It looked, and found nobody to ask.
        await eventually(lambda: world.rows("SELECT key FROM intents WHERE due_at > created_at") == [("a",)])
        await world.nats.start()
        await world.feed.send(OrderConfirmed(order_id="a"))
        await settled(world)
    # Whichever came first after the outage: it fired only once it could have heard.
    assert toy.fired in (["impatient"], ["impatient", "a"])


async def test_a_patient_timer_waits_for_a_parked_event_of_its_aggregate(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy) as service:
        await world.feed.send(task("a", 1), OrderConfirmed(order_id="a"))
        await eventually(lambda: world.rows.count("parked") == 2)
        await service.writer.run(promise, "patient", "a")
        await service.writer.run(promise, "patient", "b")
        await eventually(lambda: toy.fired == ["b"])
        await eventually(lambda: world.rows("SELECT key FROM intents WHERE due_at > created_at") == [("a",)])
        toy.down = False
        await settled(world)
        assert world.rows.notes("a") == ["confirmed"]
    assert toy.fired == ["b"]


@on_sqlite
async def test_timers_of_one_instance_wait_for_streams_that_another_reads(world: World) -> None:
    """Leases are taken one by one, so an instance may fire timers and read nothing."""
    toy = Toy()
    async with world.running(toy) as service:
        await world.feed.send(task("x", 0))
        await world.until_seen("x", [0])
        consumer = service.consumers[0]
        consumer._position = 0  # as in an instance that does not read
        await service.writer.run(promise, "patient", "a")
        await eventually(lambda: toy.fired == ["a"])


@on_sqlite
@pytest.mark.parametrize("count", [500])
async def test_many_timers_that_are_due_together_all_fire_once(world: World, count: int) -> None:
    def promise_many(work: UnitOfWork) -> None:
        for number in range(count):
            work.intend("alarm", f"t{number}", {})

    toy = Toy()
    async with world.running(toy) as service:
        await service.writer.run(promise_many)
        await settled(world)
    assert sorted(toy.fired) == sorted(f"t{n}" for n in range(count))
