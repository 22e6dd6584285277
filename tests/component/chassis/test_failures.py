"""What becomes of an event whose handling fails, and of those beside and behind it."""

from __future__ import annotations

import asyncio
import random
import string
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import orjson
import pytest

from commerce.order.v1.order_events_pb2 import OrderConfirmed, OrderCreated
from tests.component.chassis.toy import Mark, Toy, marks, task
from tests.component.chassis.world import on_postgres, on_sqlite
from tests.component.support import running
from weft.domain import Unavailable
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import Row, World
    from weft import UnitOfWork

CREATED = OrderCreated.DESCRIPTOR.full_name


def dead(world: World) -> list[Row]:
    """Return the dead letters: reason, account, attempts, error."""
    query = "SELECT reason, subject, attempts, error FROM dead_letters ORDER BY id"
    return [(reason, subject.rpartition(".")[2], *rest) for reason, subject, *rest in world.rows(query)]


async def test_one_bad_event_in_a_batch_of_200_costs_only_itself(world: World) -> None:
    tasks = [task(f"a{n % 4}", n, "refuse" if n == 101 else "") for n in range(200)]
    await world.feed.send(*tasks)
    toy = Toy()
    async with world.running(toy):
        await world.until_seen("a1", [n for n in range(1, 200, 4) if n != 101])
        await world.until_seen("a3", range(3, 200, 4))
        assert set(toy.tries.values()) == {1}
        [letter] = dead(world)
        assert letter == ("REFUSED", "a1", 1, "Refused: told to refuse")
        await world.until_published()
    assert await world.feed.numbers_published("a1") == [n for n in range(1, 200, 4) if n != 101]


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("mark:taken", "IntegrityError"),  # breaks a unique key
        ("overflow", "Error: "),  # does not fit its column
        ("untold", "ValueError: "),  # its state event is too large
    ],
)
async def test_a_row_that_cannot_be_saved_costs_only_its_own_event(world: World, then: str, error: str) -> None:
    tasks = [task("first", 0, "mark:taken"), *(task(f"a{n % 3}", n) for n in range(30)), task("a0", 30, then)]
    await world.feed.send(*tasks, task("a0", 31), task("a1", 32))
    async with world.running(retry_attempts=3):
        await world.until_seen("a1", [*range(1, 30, 3), 32])
        await world.until_seen("a0", [*range(0, 30, 3), 31])
        [(reason, account, attempts, text)] = dead(world)
    assert (reason, account, attempts) == ("EXHAUSTED", "a0", 3)
    assert error in text
    assert "\n" not in text


@on_sqlite
async def test_an_event_that_is_too_large_costs_only_its_own_unit(world: World) -> None:
    await world.feed.send(task("a", 1), task("a", 2, "large"), task("b", 3))
    async with world.running(retry_attempts=1):
        await world.until_seen("a", [1])
        await world.until_seen("b", [3])
        await eventually(lambda: dead(world))
        assert "at most 524288 can be published" in dead(world)[0][3]
        assert world.rows.notes("a") == []


async def test_an_event_that_fails_for_a_while_is_tried_again_and_those_behind_it_wait(world: World) -> None:
    tasks = [task("a", 1, "fail:3"), task("b", 2), task("a", 3), task("a", 4, "unavailable:2"), task("a", 5)]
    await world.feed.send(*tasks, task("b", 6))
    toy = Toy()
    async with world.running(toy):
        await world.until_seen("b", [2, 6])
        await world.until_seen("a", [1, 3, 4, 5])
        await eventually(lambda: world.rows.count("parked") == 0)
        await world.until_published()
    assert toy.tries == {"a/1": 4, "b/2": 1, "a/3": 1, "a/4": 3, "a/5": 1, "b/6": 1}
    assert await world.feed.numbers_published("a") == [1, 3, 4, 5]
    assert dead(world) == []


@on_sqlite
async def test_what_is_parked_waits_longer_each_time(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy, retry_base=0.02, retry_cap=60.0):
        await world.feed.send(task("a", 1))
        waits = []
        for attempts in range(1, 5):
            query = "SELECT next_at - first_at FROM parked WHERE attempts >= :attempts"
            [(wait,)] = await eventually(lambda query=query, attempts=attempts: world.rows(query, attempts=attempts))
            waits.append(wait)
    # Doubled each time from 20 ms, with 20% of jitter.
    for n, (sooner, later) in enumerate(pairwise(waits), 1):
        assert later - sooner >= 0.8 * 20_000 * 2**n


@on_sqlite
async def test_later_events_of_a_parked_one_wait_though_they_come_later(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy, retry_cap=0.05):
        await world.feed.send(task("a", 1))
        await eventually(lambda: world.rows.count("parked") == 1)
        await world.feed.send(*(task("a", n) for n in range(2, 50)))
        await eventually(lambda: world.rows.count("parked") == 49)
        assert {name for name, tries in toy.tries.items() if tries} == {"a/1"}
        toy.down = False
        await world.until_seen("a", range(1, 50))
        await world.feed.send(task("a", 50))
        await world.until_seen("a", range(1, 51))
        assert world.rows.count("parked") == 0


async def test_events_that_arrive_while_their_predecessors_are_retried_keep_their_order(world: World) -> None:
    """Batches and retries alternate: neither must overtake the other, also when saving fails."""
    toy = Toy()
    async with world.running(toy, batch_size=5, retry_base=0.001, retry_cap=0.002, retry_attempts=3):
        number, kinds = 0, ["", "fail:1", "", "mark:same", "unavailable:2", ""]
        for _ in range(20):
            tasks = [task(f"a{n % 2}", n, kinds[n % len(kinds)]) for n in range(number, number + 12)]
            number += 12
            await world.feed.send(*tasks)
        # Of all the marks only one can be saved.
        doomed = {n for n in range(number) if kinds[n % len(kinds)] == "mark:same"}
        await eventually(lambda: len(dead(world)) == len(doomed) - 1, 60, "all doomed events are dead letters")
        await eventually(lambda: world.rows.count("parked") == 0)
        await eventually(lambda: len(world.rows.seen("a0") + world.rows.seen("a1")) == number - len(doomed) + 1)
        for account in range(2):
            seen = world.rows.seen(f"a{account}")
            assert seen == sorted(seen)


class Stuck(Toy):
    """Fails at first; the second time it waits, and then does what cannot be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def take(self, work: UnitOfWork, event: OrderCreated) -> None:
        super().take(work, event)
        if event.payment_token != "stuck":
            return
        if self.tries["a/1"] == 1:
            raise Unavailable("not yet")
        if self.tries["a/1"] == 2:
            self.reached.set()
            assert self.go.wait(10)
            work.add(marks, Mark("second", "taken"))


@on_sqlite
async def test_an_event_does_not_overtake_a_parked_one_whose_retry_could_not_be_saved(world: World) -> None:
    """Its batch waits right behind that retry, and begins before anybody has heard of the failure."""
    toy = Stuck()
    async with world.running(toy) as service:
        await world.feed.send(task("x", 0, "mark:taken"))
        await world.until_seen("x", [0])
        await world.feed.send(task("a", 1, "stuck"))
        await eventually(toy.reached.is_set)
        await world.feed.send(task("a", 2))
        await eventually(lambda: service.writer._transactions, what="the batch waits for the writer")
        toy.go.set()
        await world.until_seen("a", [1, 2])


async def test_parked_events_go_on_after_a_restart_though_nothing_new_arrives(world: World) -> None:
    toy = Toy()
    toy.down = True
    await world.feed.send(task("a", 1), task("a", 2))
    async with world.running(toy):
        await eventually(lambda: world.rows.count("parked") == 2)
    toy.down = False
    async with world.running(toy):
        await world.until_seen("a", [1, 2])


@on_sqlite
async def test_an_event_that_is_out_of_tries_is_a_dead_letter_and_its_successors_go_on(world: World) -> None:
    await world.feed.send(task("a", 1, "fail"), task("a", 2), task("b", 3))
    toy = Toy()
    async with world.running(toy, retry_attempts=4):
        await world.until_seen("a", [2])
        await world.until_seen("b", [3])
    assert toy.tries["a/1"] == 4
    assert dead(world) == [("EXHAUSTED", "a", 4, "RuntimeError: told to fail")]
    assert world.rows.count("parked") == 0


async def test_the_one_at_fault_is_blamed_when_parked_events_cannot_be_saved_together(world: World) -> None:
    toy = Toy()
    async with world.running(toy, retry_attempts=5):
        await world.feed.send(task("x", 0, "mark:taken"))
        await world.until_seen("x", [0])
        toy.down = True
        await world.feed.send(task("a", 1), task("a", 2), task("a", 3, "mark:taken"), task("a", 4), task("b", 5))
        await eventually(lambda: world.rows.count("parked") == 5)
        toy.down = False
        await world.until_seen("a", [1, 2, 4])
        await world.until_seen("b", [5])
        [(reason, account, _, error)] = dead(world)
    assert (reason, account) == ("EXHAUSTED", "a")
    assert "IntegrityError" in error


@on_sqlite
@pytest.mark.parametrize("then", ["refuse", "missing:thing"])
async def test_a_refusal_is_not_tried_again(world: World, then: str) -> None:
    await world.feed.send(task("a", 1, then), task("a", 2))
    toy = Toy()
    async with world.running(toy):
        await world.until_seen("a", [2])
    assert toy.tries["a/1"] == 1
    assert [letter[0] for letter in dead(world)] == ["REFUSED"]


@on_sqlite
async def test_a_handler_that_tries_to_end_the_process_fails_like_any_other(world: World) -> None:
    await world.feed.send(task("a", 1, "quit"), task("a", 2))
    async with world.running(retry_attempts=2):
        await world.until_seen("a", [2])
    assert dead(world) == [("EXHAUSTED", "a", 2, "RuntimeError: it tried to end the process")]


@on_sqlite
async def test_being_unavailable_is_no_refusal(world: World) -> None:
    await world.feed.send(task("a", 1, "unavailable:2"))
    toy = Toy()
    async with world.running(toy):
        await world.until_seen("a", [1])
    assert toy.tries["a/1"] == 3
    assert dead(world) == []


_GOOD = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": CREATED, "ce-subject": "a", "ce-source": "/test"}


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "body", "reason", "error"),
    [
        (_GOOD, b"\xff\xff\xff", "UNDECODABLE", f"the body is no {CREATED}"),
        (_GOOD | {"ce-type": "commerce.order.v1.OrderTeleported"}, b"", "UNDECODABLE", "the subject is not"),
        (_GOOD | {"ce-subject": "b"}, b"", "UNDECODABLE", "the subject is not"),
        (_GOOD | {"ce-subject": "a.b"}, b"", "UNDECODABLE", "no id"),
        *(
            ({**_GOOD, header: ""}, b"", "UNDECODABLE", f"the header {header} is missing")
            for header in ("ce-id", "ce-type", "ce-subject")
        ),
        (None, b"hello", "UNDECODABLE", "the header ce-id is missing"),
    ],
)
async def test_a_message_that_is_no_event_is_a_dead_letter_as_it_came(
    world: World, headers: dict[str, str] | None, body: bytes, reason: str, error: str
) -> None:
    given = headers and {name: value for name, value in headers.items() if value}
    async with world.running():
        seq = await world.feed.send_bytes(f"{CREATED}.a", body, given)
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        query = "SELECT reason, error, stream, seq, subject, headers, body FROM dead_letters"
        [letter] = await eventually(lambda: world.rows(query))
    assert letter[0] == reason
    assert error in letter[1]
    assert letter[2:5] == ("COMMERCE_ORDER", seq, f"{CREATED}.a")
    assert orjson.loads(letter[5]) == (given or {})
    assert bytes(letter[6]) == body


@on_sqlite
async def test_an_event_that_nobody_handles_any_more_is_a_dead_letter(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy):
        await world.feed.send(task("a", 1), OrderConfirmed(order_id="a"))
        await eventually(lambda: world.rows.count("parked") == 2)
    toy.down = False
    service = world.build(toy)
    del service.consumers[0].subscriptions[OrderConfirmed.DESCRIPTOR.full_name]
    async with running(service):
        await world.until_seen("a", [1])
        [(reason, *_)] = await eventually(lambda: dead(world))
    assert reason == "UNKNOWN_TYPE"


@on_postgres
async def test_a_key_that_no_index_can_hold_costs_only_its_own_event(world: World) -> None:
    """PostgreSQL's driver calls that operational, as it does when the database is gone."""
    label = "".join(random.Random(1).choices(string.ascii_letters, k=20_000))  # not to be compressed
    async with world.running(retry_attempts=2):
        await world.feed.send(task("a", 1), task("a", 2, f"mark:{label}"), task("a", 3), task("b", 4))
        await world.until_seen("a", [1, 3])
        await world.until_seen("b", [4])
        [(reason, *_)] = await eventually(lambda: dead(world))
    assert reason == "EXHAUSTED"


@on_postgres
async def test_text_that_the_database_cannot_store_costs_only_its_own_event(world: World) -> None:
    async with world.running(retry_attempts=2):
        await world.feed.send(task("a", 1), task("a", 2, "mark:a\0b"), task("a", 3), task("b", 4))
        await world.until_seen("a", [1, 3])
        await world.until_seen("b", [4])
        [(reason, *_)] = await eventually(lambda: dead(world))
    assert reason == "EXHAUSTED"


@on_sqlite
async def test_a_dead_letter_is_kept_though_its_stream_is_made_anew(world: World) -> None:
    """Numbers in a stream come again then; ids do not."""
    from tests.component.chassis.test_inbox import _lose_streams

    await world.feed.send(task("a", 1, "refuse"))
    async with world.running():
        await eventually(lambda: len(dead(world)) == 1)
    await _lose_streams(world)
    await world.feed.send(task("a", 2, "refuse"))
    async with world.running():
        await eventually(lambda: len(dead(world)) == 2)


@on_sqlite
async def test_a_service_stops_while_it_retries(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy, retry_base=0.001, retry_cap=0.001, retry_attempts=10_000):
        await world.feed.send(*(task(f"a{n}", n) for n in range(100)))
        await eventually(lambda: world.rows.count("parked") == 100)
        stopped_from = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopped_from < 5
