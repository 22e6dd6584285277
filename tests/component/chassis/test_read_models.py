"""A read model holds what the streams say, each event once, and is built anew while the former build serves."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import NoSuchTableError

from commerce.order.v1.order_events_pb2 import OrderConfirmed, OrderCreated
from commerce.product.v1.product_events_pb2 import ProductCreated
from tests.component.callers import bearer, signed_channel
from tests.component.chassis.boards import ENTRIES, ORDERS, Board, build_board, count_entries, find_orders
from tests.component.chassis.toy import JournalRow
from tests.component.chassis.world import Process, on_postgres, on_sqlite
from tests.component.support import running
from weft import Projection, ReadModel, Rows, feeder, read_models
from weft.builds import Standing
from weft.domain import NotFound, Unavailable
from weft.tasks import end, happens
from weft.testing import eventually
from weftapi.v1 import operations_service_pb2 as api
from weftapi.v1.operations_service_pb2_grpc import OperationsServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

    from tests.component.chassis.world import World
    from weft import Build, ModelReader, Service

REBUILD = api.RebuildRequest(service="toy", read_model="board", why="it was mended")


def created(*ids: str) -> list[OrderCreated]:
    return [OrderCreated(order_id=id, user_id=f"user-of-{id}") for id in ids]


@asynccontextmanager
async def serving(
    world: World, board: Board | None = None, **changed: Any
) -> AsyncIterator[tuple[Service, ModelReader]]:
    """Run the service within this process."""
    service, reader = build_board(world.settings(folder=world.folder, **changed), board)
    async with running(service):
        yield service, reader


async def until_orders(reader: ModelReader, wanted: dict[str, tuple[str, str, int]], timeout: float = 10.0) -> None:
    """Wait until the build that serves has exactly these orders."""

    async def has_them() -> bool:
        try:
            return await reader.run(find_orders) == wanted
        except Unavailable:  # there is no build yet
            return False

    await eventually(has_them, timeout, f"the orders are {wanted}")


def standing(world: World) -> tuple[int, int]:
    """Return the build that serves, and the one in progress."""
    [(generation, building)] = world.rows("SELECT generation, building FROM read_models WHERE name = 'board'")
    return generation, building


def pending(*ids: str) -> dict[str, tuple[str, str, int]]:
    return {id: (f"user-of-{id}", "PENDING", 1) for id in ids}


async def test_it_is_fed_from_every_stream_and_each_event_counts_once(world: World) -> None:
    board = Board(world.folder)
    await world.feed.send(*created("a", "b", "a"), ids=["1", "2", "1"])
    async with serving(world, board) as (_, reader):
        await until_orders(reader, pending("a", "b"))
        await world.feed.send(
            OrderConfirmed(order_id="a"), OrderConfirmed(order_id="a"), *created("b"), ids=["3", "3", "2"]
        )
        await world.feed.send(ProductCreated(sku="p", title="Pen"), ids=["4"])
        await until_orders(reader, {**pending("b"), "a": ("user-of-a", "CONFIRMED", 2)})
        await eventually(lambda: world.rows.count("board_1_entries") == 4)
        assert await reader.run(count_entries, "a") == 2
        assert await reader.look_up(count_entries, "p") == 1
    assert sorted(board.tries) == ["1", "2", "3", "4"]
    assert world.rows("SELECT note FROM board_1_entries WHERE about = 'p'") == [("Pen",)]
    assert world.rows.count("outbox") == 0
    async with serving(world, board) as (_, reader):
        await world.feed.send(OrderConfirmed(order_id="b"), *created("a"), ids=["5", "1"])
        await until_orders(reader, {"a": ("user-of-a", "CONFIRMED", 2), "b": ("user-of-b", "CONFIRMED", 2)})
    assert board.tries[4:] == ["5"]


async def test_a_rebuild_takes_its_place_once_it_has_caught_up_and_the_former_build_serves_until_then(
    world: World,
) -> None:
    await world.feed.send(*created(*(f"o{n}" for n in range(30)), "held"))
    # As if an earlier version had listened to another context too.
    await world.feed.broker.ensure_consumer("COMMERCE_INVENTORY", "toy-board-g1-from-inventory", ["commerce.>"], 10)
    old = {id: (f"user-of-{id}", "PENNDING", 1) for id in (*(f"o{n}" for n in range(30)), "held")}
    async with serving(world, Board(created="PENNDING")) as (_, reader):
        await until_orders(reader, old)
    hold = world.folder / "hold"
    hold.touch()
    async with serving(world, Board(world.folder), retry_attempts=1000) as (service, reader):
        assert await reader.run(find_orders) == old
        begun = await service.read_models.rebuild(REBUILD, "admin")
        assert (begun.read_model, begun.generation, begun.building) == ("board", 1, 2)
        assert [one.stream for one in begun.progress] == ["COMMERCE_ORDER", "COMMERCE_PRODUCT"]
        again = await service.read_models.rebuild(REBUILD, "admin")
        assert (again.building, again.begin_time) == (2, begun.begin_time)
        # Both builds hear of what happens now.
        await world.feed.send(*created("new"))
        await until_orders(reader, {**old, **pending("new")})
        await eventually(lambda: world.rows.count("board_2_orders") == 31)
        [told] = await service.read_models.list()
        assert [(one.position, one.last_seq) for one in told.progress] == [(32, 32), (0, 0)]
        assert standing(world) == (1, 2)

        hold.unlink()
        await until_orders(reader, pending(*old, "new"))
        await eventually(lambda: not _left_of_the_first(world), what="the former build is gone")
        assert standing(world) == (2, 0)
        [told] = await service.read_models.list()
        assert (told.generation, told.building, len(told.progress)) == (2, 0, 0)
        assert await _consumers(world) == ["toy-board-g2-from-order"]
        assert await _consumers(world, "COMMERCE_INVENTORY") == []
    assert world.rows("SELECT actor, action, target, why, outcome FROM actions") == [
        ("admin", "rebuild", "board", "it was mended", "build 2 begun")
    ]


def _left_of_the_first(world: World) -> list[str]:
    """Return what there is of the first build."""
    left = []
    for table in ("inbox", "progress", "parked", "dead_letters"):
        left += [table] * world.rows.count(table, "consumer LIKE 'toy-board-g1-%'")
    return left + [name for name in inspect(world.rows._engine).get_table_names() if name.startswith("board_1_")]


async def _consumers(world: World, stream: str = "COMMERCE_ORDER") -> list[str]:
    found = await world.feed.broker.js.consumers_info(stream)
    return sorted(one.name for one in found)


@on_sqlite
async def test_a_process_that_is_killed_in_the_midst_of_a_rebuild_goes_on_with_it(world: World) -> None:
    ids = [f"o{n}" for n in range(600)]
    await world.feed.send(*created(*ids, "held"))
    given = {"database_url": world.database_url, "nats_url": world.nats.url, "instance": "toy-1", "batch_size": 20}
    given |= {"folder": str(world.folder), "retry_attempts": 1000}
    process = Process(given, [sys.executable, "-m", "tests.component.chassis.boards"])
    world.processes.append(process)
    process.start()
    await eventually(lambda: standing(world) == (1, 0), 20, "the first build serves")
    (world.folder / "hold").touch()
    async with signed_channel(f"127.0.0.1:{process.grpc_port}", bearer()) as channel:
        answer = await OperationsServiceStub(channel).Rebuild(REBUILD)  # type: ignore[no-untyped-call]
    assert answer.read_model.building == 2
    await eventually(lambda: world.rows.count("board_2_orders") > 0, 20, "the second build has begun")
    process.kill()
    before = world.rows.count("board_2_orders")
    assert (standing(world), before <= 600) == ((1, 2), True)
    process.start()
    await eventually(lambda: world.rows.count("board_2_orders") == 600, 20, "it has gone on")
    assert standing(world) == (1, 2)
    (world.folder / "hold").unlink()
    await eventually(lambda: standing(world) == (2, 0) and not _left_of_the_first(world), 20, "the second serves")
    assert world.rows("SELECT count(*), min(events), max(events) FROM board_2_orders") == [(601, 1, 1)]


@on_postgres
async def test_every_instance_asks_the_build_that_serves_whichever_made_it(world: World) -> None:
    await world.feed.send(*created("a"))
    board = Board()
    async with serving(world, board, instance="toy-1") as (_, first):
        await until_orders(first, pending("a"))
        async with serving(world, instance="toy-2") as (other, second):
            assert await second.run(find_orders) == pending("a")
            board.created = "MENDED"
            await other.read_models.rebuild(REBUILD, "admin")
            mended = {"a": ("user-of-a", "MENDED", 1)}
            await until_orders(first, mended)
            await until_orders(second, mended, timeout=3)
            # A query that finds the tables gone asks those that are there now.
            await eventually(lambda: not _left_of_the_first(world), what="the former build is gone")
            board.created = "AGAIN"
            await other.read_models.rebuild(REBUILD, "admin")
            await until_orders(first, {"a": ("user-of-a", "AGAIN", 1)})


@on_sqlite
async def test_a_query_that_was_about_to_read_a_former_build_reads_the_one_that_serves(world: World) -> None:
    asked: list[int] = []

    def count_once_gone(connection: Connection, build: Build) -> int:
        asked.append(build.generation)
        if build.generation == 1:  # as if it was removed meanwhile
            connection.execute(text("SELECT * FROM board_0_orders"))
        return len(connection.execute(build[ORDERS].select()).all())

    await world.feed.send(*created("a"))
    async with serving(world) as (service, reader):
        await until_orders(reader, pending("a"))
        await service.read_models.rebuild(REBUILD, "admin")
        former = reader._builds.serving
        await eventually(lambda: standing(world) == (2, 0))
        await eventually(lambda: reader._builds.serving is not former)
        current, reader._builds.serving = reader._builds.serving, former

        async def look() -> None:
            reader._builds.serving = current

        reader._look = look
        assert await reader.run(count_once_gone) == 1
    assert asked == [1, 2]


@on_sqlite
async def test_a_function_writes_rows_and_can_do_nothing_else(world: World) -> None:
    board = Board()
    wrongs = {
        "records": lambda view: view.record(OrderConfirmed(order_id="x")),
        "promises": lambda view: view.intend("ask", "x", {}),
        "columns": lambda view: view.put(ORDERS, order_id="x", colour="red"),
        "keyless": lambda view: view.put(ORDERS, state="x"),
        "rekeys": lambda view: view.get(ORDERS, "good").update(order_id="x"),
        "reads": lambda view: view.get(ENTRIES, "x"),
        "timeless": lambda view: view.time,
    }
    board.besides = lambda view: wrongs.get(view.event.key, lambda _: None)(view)
    async with serving(world, board, retry_attempts=1) as (_, reader):
        await world.feed.send(*created("good", *wrongs, "last"))
        await until_orders(reader, pending("good", "last"))
        dead = dict(world.rows("SELECT subject, error FROM dead_letters WHERE consumer = 'toy-board-g1-from-order'"))
    errors = {subject.rpartition(".")[2]: error for subject, error in dead.items()}
    assert errors.keys() == wrongs.keys()
    assert errors["records"] == "AttributeError: 'View' object has no attribute 'record'"
    assert errors["columns"] == "ValueError: orders has no column colour"
    assert errors["timeless"] == "the header ce-time is missing, or no time as in RFC 3339"
    assert (world.rows.count("outbox"), world.rows.count("intents")) == (0, 0)
    assert world.rows.count("board_1_entries") == 2


@on_sqlite
async def test_what_cannot_be_written_yet_waits_with_its_successors_and_is_written_in_order(world: World) -> None:
    board = Board(world.folder)
    (world.folder / "hold").touch()
    async with serving(world, retry_attempts=1000) as (_, reader):
        await until_orders(reader, {})
        await world.feed.send(*created("held"), OrderConfirmed(order_id="held"), *created("a"))
        await until_orders(reader, pending("a"))
        assert world.rows.count("parked", "consumer = 'toy-board-g1-from-order'") == 2
        assert board.hold is not None
        board.hold.unlink()
        await until_orders(reader, {**pending("a"), "held": ("user-of-held", "CONFIRMED", 2)})


@on_sqlite
async def test_tables_that_an_earlier_version_made_otherwise_are_built_anew_by_themselves(world: World) -> None:
    await world.feed.send(*created("a"))
    async with serving(world) as (_, reader):
        await until_orders(reader, pending("a"))
    world.rows("ALTER TABLE board_1_orders DROP COLUMN state")
    async with serving(world) as (_, reader):
        await until_orders(reader, pending("a"))
        await eventually(lambda: not _left_of_the_first(world))
    assert standing(world) == (2, 0)


@on_sqlite
async def test_an_instance_that_could_not_see_which_build_serves_looks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_models, "_LOOK_AGAIN", 0.01)
    looked = 0

    async def look() -> None:
        nonlocal looked
        looked += 1
        raise NoSuchTableError("board_1_orders")  # as while another instance removes a build

    async with serving(world) as (service, _):
        models = service.read_models
        models._alone = False
        monkeypatch.setattr(models, "look", look)
        watching = asyncio.create_task(models.watch())
        await eventually(lambda: looked >= 3)
        await end(watching)


@on_sqlite
async def test_a_database_that_says_less_than_it_did_is_asked_again_after_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.feed.send(*created("a"))
    async with serving(world) as (service, reader):
        await until_orders(reader, pending("a"))
        builds = service.read_models._feeders["board"].builds
        pauses: list[float] = []

        async def pause(event: asyncio.Event, seconds: float) -> bool:
            pauses.append(seconds)
            return await happens(event, seconds)

        monkeypatch.setattr(feeder, "happens", pause)
        builds.standing = Standing(9, 0, 0)
        builds.changed.set()
        await eventually(lambda: len(pauses) >= 2)
    assert pauses[:2] == [0.05, 0.1]


@on_sqlite
async def test_an_unknown_read_model_is_told_with_those_that_there_are(world: World) -> None:
    service, _ = build_board(world.settings())
    async with running(service):
        with pytest.raises(NotFound, match="there is no read model 'bored': there is board"):
            await service.read_models.rebuild(api.RebuildRequest(service="toy", read_model="bored"), "admin")


def test_what_cannot_be_a_read_model_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="a primary key of one column"):
        Rows(JournalRow)
    with pytest.raises(ValueError, match="lower-case words"):
        ReadModel("board2", [], [])
    twice = [Projection(OrderCreated, lambda view, event: None) for _ in range(2)]
    with pytest.raises(ValueError, match="one function for each event"):
        ReadModel("board", [], twice)
