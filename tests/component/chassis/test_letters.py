"""What an operator does with letters: they are listed, shown, tried again with the ids they had, and dropped."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import orjson
from google.protobuf.duration_pb2 import Duration

from commerce.order.v1.order_events_pb2 import OrderCreated
from tests.component.callers import bearer
from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import on_postgres, on_sqlite
from tests.component.support import calling, reason, refusal, violations
from weft import letter_box, parking
from weft.domain import Refused
from weft.testing import eventually
from weftapi.v1 import operations_service_pb2 as api
from weftapi.v1.operations_service_pb2_grpc import OperationsServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    import pytest

    from tests.component.chassis.world import World
    from weft import Service, UnitOfWork
    from weftapi.v1.operations_service_pb2_grpc import OperationsServiceAsyncStub

READING = "toy-from-order"
CREATED = OrderCreated.DESCRIPTOR.full_name
PARKED = api.LetterFilter(kind=api.LETTER_KIND_PARKED)


class Broken(Toy):
    """Refuses whatever its tasks say besides, until it is mended."""

    broken = True

    def do(self, work: UnitOfWork, event: OrderCreated, action: str, detail: str, tries: int) -> None:
        if self.broken:
            raise Refused("BROKEN", "broken")


@asynccontextmanager
async def operating(service: Service, authorization: str | None = None) -> AsyncIterator[OperationsServiceAsyncStub]:
    """Open a channel to a service's operations, as an admin unless told."""
    async with calling(service, authorization) as channel:
        yield OperationsServiceStub(channel)


async def listed(stub: OperationsServiceAsyncStub, **filter: object) -> list[api.Letter]:
    """Return the letters that a filter lets through, page by page of two."""
    letters: list[api.Letter] = []
    token = ""
    while True:
        wanted = api.LetterFilter(**filter)  # type: ignore[arg-type]
        request = api.ListLettersRequest(service="toy", filter=wanted, page_size=2, page_token=token)
        page = await stub.ListLetters(request)
        letters += page.letters
        token = page.next_page_token
        if not token:
            return letters


def about(letters: list[api.Letter]) -> list[str]:
    """Return whom letters are about."""
    return sorted(one.aggregate_id for one in letters)


async def test_a_letter_that_is_tried_again_keeps_its_id_and_has_its_effect_once(world: World) -> None:
    toy = Broken()
    async with world.running(toy) as service, operating(service) as stub:
        [event_id, _] = await world.feed.send(task("a", 1, "x"), task("a", 2))
        await world.until_seen("a", [2])
        [letter] = await listed(stub)
        assert (letter.event_id, letter.reason, letter.consumer) == (event_id, "REFUSED", READING)
        assert (letter.event_type, letter.aggregate_id, letter.attempts) == (CREATED, "a", 1)
        assert letter.letter_id == f"{READING}.{letter.stream_seq}"
        retry = api.RetryLettersRequest(service="toy", letter_ids=[letter.letter_id], why="once more")

        answer = await stub.RetryLetters(retry)
        assert [one.event_id for one in answer.letters] == [event_id]
        await eventually(lambda: toy.tries["a/1"] == 2)
        [again] = await eventually(lambda: listed(stub))
        assert (again.event_id, again.first_time) == (event_id, letter.first_time)

        toy.broken = False
        await stub.RetryLetters(retry)
        await world.until_seen("a", [2, 1])
        await world.feed.send(task("a", 1, "x"), task("a", 3), ids=[event_id, "new"])
        await world.until_seen("a", [2, 1, 3])
        assert toy.tries["a/1"] == 3
        assert (await refusal(stub.RetryLetters(retry))).code() is grpc.StatusCode.NOT_FOUND

        done = (await stub.ListActions(api.ListActionsRequest(service="toy"))).actions
        assert [(one.actor, one.action, one.target, one.why) for one in done] == [
            ("ann", "retry", event_id, "once more")
        ] * 2
        assert letter.letter_id in done[0].outcome


async def test_letters_are_found_by_what_is_known_of_them(world: World) -> None:
    async with world.running(Broken()) as service, operating(service) as stub:
        await world.feed.send(*(task(name, 1, "x") for name in ("a", "b", "c")))
        headers = {"ce-specversion": "1.0", "ce-type": "commerce.order.v1.OrderLost", "ce-subject": "d"}
        await world.feed.send_bytes("commerce.order.v1.OrderConfirmed.d", b"\xff", headers)
        await eventually(lambda: world.rows.count("dead_letters") == 4)
        assert about(await listed(stub)) == ["a", "b", "c", "d"]
        assert about(await listed(stub, event_type="OrderCreated")) == ["a", "b", "c"]
        assert about(await listed(stub, event_type=CREATED, aggregate_id="b")) == ["b"]
        assert about(await listed(stub, event_type="Created")) == []
        assert about(await listed(stub, aggregate_id="_")) == []
        assert about(await listed(stub, reason="UNDECODABLE")) == ["d"]
        assert about(await listed(stub, consumer="toy-from-product")) == []
        assert about(await listed(stub, kind=api.LETTER_KIND_PARKED)) == []
        assert about(await listed(stub, older_than=Duration(seconds=60))) == []
        world.rows("UPDATE dead_letters SET died_at = died_at - 61000000 WHERE subject LIKE '%.b'")
        assert about(await listed(stub, older_than=Duration(seconds=60))) == ["b"]


@on_sqlite
async def test_a_letter_is_shown_as_it_came_without_what_is_not_to_be_seen(world: World) -> None:
    async with world.running(Broken()) as service, operating(service) as stub:
        [event_id] = await world.feed.send(task("a", 1, "tok_secret"))
        await eventually(lambda: world.rows.count("dead_letters") == 1)
        seq = await world.feed.send_bytes(f"{CREATED}.b", b"\xff", {"ce-type": CREATED})
        await eventually(lambda: world.rows.count("dead_letters") == 2)
        shown = [
            (await stub.GetLetter(api.GetLetterRequest(service="toy", letter_id=one.letter_id))).letter
            for one in await listed(stub)
        ]
        assert orjson.loads(shown[0].payload_json) == {"orderId": "a", "userId": "1"}
        assert shown[0].headers["ce-id"] == event_id
        assert (shown[1].payload_json, shown[1].stream_seq, shown[1].body_size) == ("", seq, 1)
        for letter_id in ("nothing", f"{READING}.99", f"{READING}.-1", f"{READING}.{10**30}"):
            missing = refusal(stub.GetLetter(api.GetLetterRequest(service="toy", letter_id=letter_id)))
            assert (await missing).code() is grpc.StatusCode.NOT_FOUND


async def test_letters_that_are_dropped_are_gone_and_what_only_would_be_stays(world: World) -> None:
    async with world.running(Broken()) as service, operating(service) as stub:
        ids = await world.feed.send(*(task(name, 1, "x") for name in "abc"))
        await eventually(lambda: world.rows.count("dead_letters") == 3)
        everything = api.LetterFilter()
        rehearsed = await stub.DropLetters(api.DropLettersRequest(service="toy", filter=everything, dry_run=True))
        assert [one.event_id for one in rehearsed.letters] == ids
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", filter=everything, dry_run=True))
        assert (world.rows.count("dead_letters"), world.rows.count("parked")) == (3, 0)
        assert world.rows.count("actions") == 0

        only_b = api.LetterFilter(aggregate_id="b")
        dropped = await stub.DropLetters(api.DropLettersRequest(service="toy", filter=only_b, why="a test order"))
        assert [one.event_id for one in dropped.letters] == [ids[1]]
        assert about(await listed(stub)) == ["a", "c"]
        assert world.rows("SELECT actor, action, target, why FROM actions") == [("ann", "drop", ids[1], "a test order")]


@on_sqlite
async def test_what_is_asked_amiss_is_refused_and_changes_nothing(world: World) -> None:
    async with world.running(Broken()) as service, operating(service) as stub:
        await world.feed.send(task("a", 1, "x"))
        await eventually(lambda: world.rows.count("dead_letters") == 1)
        some, ages, ids = api.LetterFilter(), api.LetterFilter(older_than=Duration(seconds=2**62)), [f"{READING}.1"]
        drop, retry = api.DropLettersRequest, api.RetryLettersRequest
        amiss: dict[Awaitable[object], str] = {
            stub.DropLetters(drop(service="toy", filter=some, why=" ")): "why",
            stub.DropLetters(drop(service="toy", filter=some, letter_ids=ids, why="w")): "letter_ids",
            stub.DropLetters(drop(service="toy", filter=PARKED, why="w")): "filter.kind",
            stub.RetryLetters(retry(service="toy")): "letter_ids",
            stub.RetryLetters(retry(service="toy", letter_ids=["nothing"])): "letter_ids[0]",
            stub.RetryLetters(retry(service="toy", letter_ids=ids * 1001)): "letter_ids",
            stub.RetryLetters(retry(service="toy", letter_ids=ids, why="w" * 1001)): "why",
            stub.RetryLetters(retry(service="order", letter_ids=ids)): "service",
            stub.ListLetters(api.ListLettersRequest(service="toy", page_token="x")): "page_token",
            stub.RetryLetters(retry(service="toy", filter=some, page_token="WyJhIiwxXQ")): "page_token",
            stub.RetryLetters(retry(service="toy", filter=ages)): "filter.older_than",
            stub.GetLetter(api.GetLetterRequest(service="toy", letter_id="a\0.1")): "letter_id",
        }
        for call, field in amiss.items():
            assert list(violations(await refusal(call))) == [field]
        missing = retry(service="toy", letter_ids=[f"{READING}.2"])
        assert (await refusal(stub.RetryLetters(missing))).code() is grpc.StatusCode.NOT_FOUND
        world.rows("UPDATE dead_letters SET consumer = 'toy-from-elsewhere'")
        assert reason(await refusal(stub.RetryLetters(retry(service="toy", filter=some)))) == "CONSUMER_GONE"
        async with operating(service, bearer("bob", "customer")) as customer:
            denied = await refusal(customer.ListLetters(api.ListLettersRequest(service="toy")))
        assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (world.rows.count("dead_letters"), world.rows.count("actions")) == (1, 0)


async def test_parked_events_are_tried_at_once_when_they_are_told_to(world: World) -> None:
    toy = Toy()
    toy.down = True
    async with world.running(toy, retry_base=60.0, retry_cap=60.0) as service, operating(service) as stub:
        await world.feed.send(task("a", 1), task("a", 2), task("b", 3), task("b", 4))
        await eventually(lambda: world.rows.count("parked") == 4)
        letters = await listed(stub, kind=api.LETTER_KIND_PARKED)
        waiting = {one.letter_id: one.error for one in letters}
        assert sorted(waiting.values()) == [
            *["Unavailable: what it needs is down"] * 2,
            *["waits for an earlier event of its aggregate"] * 2,
        ]
        drop = api.DropLettersRequest(service="toy", letter_ids=[letters[0].letter_id], why="w")
        assert reason(await refusal(stub.DropLetters(drop))) == "LETTER_PARKED"
        drop.letter_ids.extend(waiting)
        assert not (await stub.DropLetters(drop)).letters
        toy.down = False
        # One that waits is not tried before the one that it waits for.
        [last_of_a] = [one.letter_id for one in letters if one.aggregate_id == "a" and one.attempts == 0]
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", letter_ids=[last_of_a]))
        await world.until_seen("a", [1, 2])
        assert world.rows.count("parked") == 2
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", filter=PARKED))
        await world.until_seen("b", [3, 4])
        assert world.rows.count("actions") == 3


@on_sqlite
async def test_a_caller_who_goes_on_hands_each_letter_over_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_box, "AT_ONCE", 2)
    toy = Broken()
    async with world.running(toy, retry_base=60.0, retry_cap=60.0) as service, operating(service) as stub:
        ids = await world.feed.send(*(task(name, 1, "x") for name in "abcde"))
        await eventually(lambda: world.rows.count("dead_letters") == 5)

        async def retried(request: api.RetryLettersRequest) -> api.RetryLettersResponse:
            tries = sum(toy.tries.values())
            answer = await stub.RetryLetters(request)
            await eventually(lambda: sum(toy.tries.values()) == tries + len(answer.letters), what="all are tried")
            await eventually(lambda: world.rows.count("dead_letters") == 5 - 5 * toy.down, what="they fail again")
            return answer

        async def all_retried(**which: Any) -> list[str]:
            answer = await retried(api.RetryLettersRequest(service="toy", **which))
            taken = list(answer.letters)
            while token := answer.next_page_token:
                answer = await retried(api.RetryLettersRequest(service="toy", page_token=token, **which))
                taken += answer.letters
            return [one.event_id for one in taken]

        assert await all_retried(filter=api.LetterFilter()) == ids
        names = [one.letter_id for one in sorted(await listed(stub), key=lambda one: one.stream_seq)]
        assert await all_retried(letter_ids=[f"{READING}.99", *names]) == ids
        assert world.rows.count("actions") == 10

        toy.down = True
        monkeypatch.setattr(letter_box, "AT_ONCE", 5)
        await all_retried(letter_ids=names)
        monkeypatch.setattr(letter_box, "AT_ONCE", 2)
        assert sorted(await all_retried(filter=PARKED)) == ids


@on_postgres
async def test_the_instance_that_reads_tries_again_what_another_was_told_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Broken()
    async with (
        world.running(toy, instance="toy-1") as reading,
        world.running(Broken(), instance="toy-2") as spare,
        operating(spare) as stub,
    ):
        await world.feed.send(task("a", 1, "x"), task("a", 2, "x"))
        await eventually(lambda: world.rows.count("dead_letters") == 2)
        toy.broken = False
        first, second = await listed(stub)
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", letter_ids=[first.letter_id]))
        await world.until_seen("a", [1], timeout=4)  # before it would look by itself
        # A word that is lost is no more than a delay.
        monkeypatch.setattr(spare, "_wake_others", lambda what: None)
        monkeypatch.setattr(parking, "_DOUBT_AFTER", 0.1)
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", letter_ids=[second.letter_id]))
        await world.until_seen("a", [1, 2])
        assert reading.ready


@on_sqlite
async def test_a_letter_that_ends_the_process_again_does_not_do_so_for_ever(world: World) -> None:
    async with world.running(Broken()):
        await world.feed.send(task("a", 1, "exit"))
        await eventually(lambda: world.rows.count("dead_letters") == 1)
    lives = 1
    process = world.process(retry_attempts=1)
    await process.ready()
    async with process.calling_as(OperationsServiceStub) as stub:
        await stub.RetryLetters(
            api.RetryLettersRequest(service="toy", letter_ids=[f"{READING}.1"]), wait_for_ready=True
        )

    def set_aside() -> bool:
        nonlocal lives
        if not process.running:
            lives += 1
            process.stop()
            process.start()
        return bool(world.rows.count("dead_letters", "reason = 'CRASHED'"))

    await eventually(set_aside, 60)
    # It was tried, it was tried once more alone and counted, and the third life gave it up.
    assert lives == 3
