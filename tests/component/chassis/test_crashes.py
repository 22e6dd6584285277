"""A process that is killed, or that one of its events kills, loses nothing and does nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import on_sqlite
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import Process, World

ACCOUNTS = 7


async def test_a_process_that_is_killed_again_and_again_in_mid_burst_loses_and_doubles_nothing(world: World) -> None:
    numbers = range(2000)
    await world.feed.send(*(task(f"a{n % ACCOUNTS}", n) for n in numbers))
    process = world.process(batch_size=50)
    for part in (0.15, 0.4, 0.65):
        await eventually(lambda part=part: _handled(world) > part * len(numbers), 20, "it has got so far")
        process.kill()
        process.start()
    for account in range(ACCOUNTS):
        await world.until_seen(f"a{account}", [n for n in numbers if n % ACCOUNTS == account], timeout=30)
    await world.until_published(timeout=30)
    for account in range(ACCOUNTS):
        published = await world.feed.numbers_published(f"a{account}")
        # A crash between publishing and noting it publishes again, which the broker or the inboxes find out.
        assert list(dict.fromkeys(published)) == [n for n in numbers if n % ACCOUNTS == account]
    assert world.rows.count("dead_letters") == 0


def _handled(world: World) -> int:
    return sum(len(seen) for seen in world.rows.all_seen().values())


@on_sqlite
async def test_a_crash_between_commit_and_acknowledgement_has_no_second_effect(world: World) -> None:
    """The process dies right after the commit, before it could tell the broker."""
    process = world.process(batch_size=1)
    await world.feed.send(task("a", 1), task("a", 2, "mark:first"), task("a", 3, "wait:here"))
    await eventually(lambda: (world.folder / "here.reached").exists(), 20, "the third is being handled")
    process.kill()
    await world.feed.broker.reset_consumer("COMMERCE_ORDER", "toy-from-order", 1)
    (world.folder / "here.go").touch()
    process.start()
    await world.until_seen("a", [1, 2, 3], timeout=20)
    assert world.rows.count("inbox") == 3


@on_sqlite
async def test_an_event_that_ends_the_process_is_set_aside_and_its_neighbours_are_handled(world: World) -> None:
    tasks = [task(f"a{n % 3}", n, "exit" if n == 40 else "") for n in range(60)]
    await world.feed.send(*tasks)
    lives = await _run_until(world, 60 - 1)
    # Three deaths in a batch, three alone: then it is known. More only if the batch did not arrive whole.
    assert 7 <= lives <= 10
    [(reason, error, attempts)] = world.rows("SELECT reason, error, attempts FROM dead_letters")
    assert (reason, error, attempts) == ("CRASHED", "the process ended while it was handled", 3)
    for account in range(3):
        assert world.rows.seen(f"a{account}") == [n for n in range(account, 60, 3) if n != 40]


@on_sqlite
async def test_an_event_that_ends_the_process_when_it_is_tried_again_is_set_aside_too(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy):
        await world.feed.send(task("a", 1), task("b", 2, "exit"), task("c", 3), task("b", 4))
        await eventually(lambda: world.rows.count("parked") == 4)
        # As if it died: its leases are not given back.
        leases = world.rows("SELECT name, holder FROM leases")
    for name, holder in leases:
        world.rows("UPDATE leases SET holder = :holder WHERE name = :name", name=name, holder=holder)
    await _run_until(world, 3, retry_attempts=4)
    [(reason, attempts)] = world.rows("SELECT reason, attempts FROM dead_letters")
    assert (reason, attempts) == ("CRASHED", 4)
    assert world.rows.all_seen() == {"a": [1], "b": [4], "c": [3]}


@on_sqlite
async def test_an_event_that_ended_the_process_by_chance_is_handled_in_the_end(world: World) -> None:
    await world.feed.send(*(task("a", n, "exit:2" if n == 2 else "") for n in range(5)))
    await _run_until(world, 5)
    assert world.rows.seen("a") == list(range(5))
    assert world.rows.count("dead_letters") == 0


async def _run_until(world: World, handled: int, **settings: object) -> int:
    """Run the service, and start it again whenever it ends, until it has handled so many; return its lives."""
    process, lives = world.process(**settings), 1

    def done() -> bool:
        nonlocal lives
        if not process.running:
            process.stop()
            process.start()
            lives += 1
        return lives > 20 or _handled(world) == handled

    await eventually(done, 40, "all others are handled")
    assert _still_up(process)
    return lives


def _still_up(process: Process) -> bool:
    return process.running
