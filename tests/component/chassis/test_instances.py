"""Several instances of one service on one PostgreSQL: one of them reads, and only that one can write."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING

from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import on_postgres
from tests.component.support import running
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import World

pytestmark = on_postgres
READING = "toy-from-order"
PATIENCE = 1.0


def holder(world: World, lease: str = READING) -> str:
    """Return who holds a lease."""
    return str(world.rows("SELECT holder FROM leases WHERE name = :name", name=lease)[0][0])


async def test_of_two_instances_one_reads(world: World) -> None:
    toys = Toy(), Toy()
    async with world.running(toys[0], instance="toy-1"), world.running(toys[1], instance="toy-2"):
        await world.feed.send(*(task("a", n) for n in range(50)))
        await world.until_seen("a", range(50))
        assert holder(world) == "toy-1"
    assert (len(toys[0].tries), len(toys[1].tries)) == (50, 0)


async def test_two_instances_that_start_together_on_an_empty_database_share_the_work(world: World) -> None:
    services = world.build(instance="toy-1"), world.build(instance="toy-2")
    try:
        await asyncio.gather(*(service.start() for service in services))
        await eventually(lambda: all(service.ready for service in services))
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        await world.until_published()
    finally:
        await asyncio.gather(*(service.stop() for service in services))


async def test_a_clean_stop_hands_over_at_once(world: World) -> None:
    patience = 30.0
    async with world.running(instance="toy-2", lease_seconds=0.5):
        pass  # so that the tables are there
    first = world.build(instance="toy-1", lease_seconds=patience)
    async with running(first):
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        second = world.build(instance="toy-2", lease_seconds=patience)
        await second.start()
        try:
            await eventually(lambda: second.ready)
            await first.stop()
            await world.feed.send(task("a", 2))
            await world.until_seen("a", [1, 2], timeout=patience / 2)
            assert holder(world) == "toy-2"
        finally:
            await second.stop()


async def test_the_same_instance_takes_its_own_leases_at_once_when_it_was_killed(world: World) -> None:
    process = world.process(lease_seconds=60)
    await world.feed.send(task("a", 1))
    await world.until_seen("a", [1], timeout=20)
    process.kill()
    await world.feed.send(task("a", 2))
    process.start()
    await world.until_seen("a", [1, 2], timeout=20)


async def test_another_takes_over_from_one_that_is_paused_and_keeps_order_and_effects(world: World) -> None:
    """The holder is stopped in the midst of a transaction, which holds its locks until it is ended."""
    paused = world.process(instance="toy-1", lease_seconds=PATIENCE, batch_size=10)
    await paused.ready()
    await world.feed.send(*(task("a", n, "wait:here" if n == 25 else "") for n in range(100)))
    await eventually(lambda: (world.folder / "here.reached").exists())
    paused.signal(signal.SIGSTOP)
    (world.folder / "here.go").touch()
    toy = Toy(world.folder)
    async with world.running(toy, instance="toy-2", lease_seconds=PATIENCE, batch_size=10):
        await world.until_seen("a", range(100), timeout=20)
        paused.signal(signal.SIGCONT)
        await world.feed.send(*(task("a", n) for n in range(100, 200)))
        await world.until_seen("a", range(200))
        await world.until_published()
        assert await world.feed.numbers_published("a") == list(range(200))
        # The one that was paused goes on, as a spare.
        await eventually(lambda: paused.running and _spare(world))
    await world.feed.send(task("a", 200))
    await world.until_seen("a", range(201))
    assert holder(world) == "toy-1"


def _spare(world: World) -> bool:
    return holder(world) == "toy-2"


async def test_an_idle_holder_that_is_paused_gets_no_messages_that_are_meant_for_its_successor(world: World) -> None:
    paused = world.process(instance="toy-1", lease_seconds=PATIENCE)
    await paused.ready()
    await world.feed.send(task("a", 0))
    await world.until_seen("a", [0])
    paused.signal(signal.SIGSTOP)
    async with world.running(instance="toy-2", lease_seconds=PATIENCE):
        await eventually(lambda: holder(world) == "toy-2")
        for number in range(1, 6):
            await world.feed.send(task("a", number))
            await world.until_seen("a", range(number + 1), timeout=5)


async def test_a_holder_whose_lease_was_stolen_between_load_and_commit_writes_nothing(world: World) -> None:
    """Its transaction is ended, as PostgreSQL does with that of a paused process; then it finds the new epoch."""
    toy = Toy(world.folder)
    async with world.running(toy, instance="toy-1", lease_seconds=60) as service:
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        before = world.rows("SELECT * FROM progress ORDER BY consumer")
        await world.feed.send(task("a", 2, "wait:here"), task("a", 3))
        await eventually(lambda: (world.folder / "here.reached").exists())
        stealing = asyncio.create_task(asyncio.to_thread(_steal, world, READING))
        _end_transactions(world)
        await stealing
        (world.folder / "here.go").touch()
        assert service._leases is not None
        await eventually(service._leases._running[READING].done, what="it has noticed")
        assert world.rows.seen("a") == [1]
        assert world.rows.count("inbox") == 1
        assert world.rows("SELECT * FROM progress ORDER BY consumer") == before


def _steal(world: World, name: str) -> None:
    world.rows("UPDATE leases SET holder = 'thief', epoch = epoch + 1 WHERE name = :name", name=name)


def _end_transactions(world: World) -> None:
    """End what the service has open, as PostgreSQL does when it hears nothing for too long."""
    world.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'idle in transaction'"
    )


async def test_stealing_waits_for_a_transaction_in_progress(world: World) -> None:
    toy = Toy(world.folder)
    async with world.running(toy, instance="toy-1", lease_seconds=60):
        await world.feed.send(task("a", 1, "wait:here"))
        await eventually(lambda: (world.folder / "here.reached").exists())
        stealing = asyncio.create_task(asyncio.to_thread(_steal, world, READING))
        await eventually(lambda: _blocked(world), what="the thief waits")
        (world.folder / "here.go").touch()
        await stealing
        assert world.rows.seen("a") == [1]


def _blocked(world: World) -> bool:
    query = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(world.rows(query)[0][0])


async def test_commands_of_others_go_on_while_a_holder_is_paused_in_a_transaction(world: World) -> None:
    """Whoever wants the paused one's lease must not wait for it with its only writer."""
    from tests.component.chassis.toy import deposit

    paused = world.process(instance="toy-1", lease_seconds=1.5 * PATIENCE)
    await paused.ready()
    await world.feed.send(task("a", 0, "wait:here"))
    await eventually(lambda: (world.folder / "here.reached").exists())
    paused.signal(signal.SIGSTOP)
    async with world.running(instance="toy-2", lease_seconds=1.5 * PATIENCE) as service:
        slowest = 0.0
        loop = asyncio.get_running_loop()
        while holder(world) != "toy-2":
            began = loop.time()
            await service.writer.run(deposit, "b", 1)
            slowest = max(slowest, loop.time() - began)
            await asyncio.sleep(0.01)
    assert slowest < PATIENCE


async def test_two_instances_that_change_one_aggregate_at_once_both_have_their_effect(world: World) -> None:
    from tests.component.chassis.toy import deposit

    meeting = threading.Barrier(2)
    tries: list[int] = []

    def deposit_together(work: object, number: int) -> None:
        deposit(work, "a", number)  # type: ignore[arg-type]
        tries.append(number)
        if tries.count(number) == 1:
            meeting.wait(5)  # both have loaded, neither has saved

    async with world.running(instance="toy-1") as first, world.running(instance="toy-2") as second:
        await first.writer.run(deposit, "a", 0)
        calls = (one.writer.run(deposit_together, number) for number, one in ((1, first), (2, second)))
        await asyncio.gather(*calls)
        assert sorted(world.rows.seen("a")) == [0, 1, 2]
        assert sorted(tries) in ([1, 1, 2], [1, 2, 2])
        await world.until_published()
        revisions = [
            event.body.revision  # type: ignore[union-attr]
            for event in await world.feed.published()
            if event.type.endswith(".InventoryUpdated")
        ]
    assert revisions == [1, 2, 3]


async def test_the_inserts_of_two_instances_that_make_one_aggregate_at_once_both_count(world: World) -> None:
    from tests.component.chassis.toy import write

    meeting = threading.Barrier(2)
    tries: list[str] = []

    def write_together(work: object, note: str) -> None:
        write(work, "j", note)  # type: ignore[arg-type]
        tries.append(note)
        if tries.count(note) == 1:
            meeting.wait(5)

    async with world.running(instance="toy-1") as first, world.running(instance="toy-2") as second:
        await asyncio.gather(first.writer.run(write_together, "one"), second.writer.run(write_together, "two"))
        assert sorted(world.rows.notes("j")) == ["one", "two"]


async def test_work_that_one_instance_makes_is_done_by_the_one_that_holds_the_lease_at_once(world: World) -> None:
    """A word over the broker wakes it; else it would find out by its sweep."""
    from tests.component.chassis.toy import deposit

    async with world.running(instance="toy-1"), world.running(instance="toy-2") as second:
        assert holder(world, "relay") == "toy-1"
        await world.until_published()
        loop = asyncio.get_running_loop()
        waits = []
        for number in range(5):
            began = loop.time()
            await second.writer.run(deposit, "a", number)
            await world.until_published()
            waits.append(loop.time() - began)
    assert min(waits) < 0.5
