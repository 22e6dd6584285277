"""What a unit of work promises: all of its effects or none, alone and in a group that is saved together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from commerce.inventory.v1.inventory_events_pb2 import InventoryReleased, InventoryReserved, InventoryUpdated
from tests.component.chassis import toy
from tests.component.chassis.toy import Account, AccountRow, Mark, accounts, deposit, marks, write
from tests.component.chassis.world import Rows, on_postgres, on_sqlite
from weft import tables
from weft.clock import Clock
from weft.database import Database, is_lost
from weft.domain import NotFound, Unavailable
from weft.sql import Sqlite
from weft.store import Store
from weft.testing import eventually
from weft.tracing import TraceContext
from weft.work import Done, Failed, Origin, Unit, UnitOfWork, attempt
from weft.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from weft.work import Flushed
    from weft.writer import Transaction

MIGRATIONS = Path(__file__).parent / "migrations"
LARGE = "x" * 600_000
NAMES = {one.DESCRIPTOR.full_name: one for one in (InventoryReserved, InventoryReleased, InventoryUpdated)}

Command = Callable[[UnitOfWork], Any]


class Instance:
    """A writer on a database, as each instance of a service has one."""

    def __init__(self, url: str, most_waiting: int = 1000) -> None:
        self.commits: list[Flushed] = []
        self.database = Database(url, migrations=MIGRATIONS)
        self.writer = Writer(
            self.database,
            Clock(),
            current_trace=TraceContext,
            on_commit=self.commits.append,
            most_waiting=most_waiting,
        )

    async def __aenter__(self) -> Instance:
        await asyncio.to_thread(self.database.open)
        self.writer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.close()
        self.database.close()

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Keep the writer from its commands within the `with`: those that came then are saved together."""
        begun, go_on = threading.Event(), threading.Event()

        def occupy(_: Transaction) -> None:
            begun.set()
            go_on.wait(10)

        task = asyncio.create_task(self.writer.transact(occupy))
        try:
            await asyncio.to_thread(begun.wait, 10)
            yield
        finally:
            go_on.set()
            await task
            self.commits.clear()

    async def begin(self, *commands: Command) -> list[asyncio.Task[Any]]:
        """Have commands wait for the writer, in this order."""
        tasks = [asyncio.create_task(self.writer.run(command)) for command in commands]
        await asyncio.sleep(0)
        return tasks

    async def together(self, *commands: Command) -> list[Any]:
        """Run commands in one group; return what each returned or raised."""
        async with self.busy():
            tasks = await self.begin(*commands)
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def instance(database_url: str) -> AsyncIterator[Instance]:
    """The only instance."""
    async with Instance(database_url) as instance:
        yield instance


@pytest.fixture
def rows(database_url: str) -> Rows:
    """The database, from beside it."""
    return Rows(database_url)


def put(account: str, amount: int, number: int = 0) -> Command:
    """Return a command that has an account take an amount."""
    return lambda work: deposit(work, account, number, amount)


def then_fail(command: Command, error: Exception | None = None) -> Command:
    """Return a command that does the same, and fails."""

    def fail(work: UnitOfWork) -> None:
        command(work)
        raise error or RuntimeError("told to fail")

    return fail


def totals(rows: Rows) -> dict[str, tuple[int, int]]:
    """Return total and version of each account."""
    return {id: (total, version) for id, total, version in rows("SELECT id, total, version FROM accounts")}


def events(rows: Rows) -> list[tuple[str, Any]]:
    """Return the events in the outbox, in order: aggregate and message."""
    found = rows("SELECT aggregate_id, type, body FROM outbox ORDER BY seq")
    return [(key, NAMES[type].FromString(bytes(body))) for key, type, body in found]


async def test_commands_that_wait_together_are_saved_with_one_commit(instance: Instance, rows: Rows) -> None:
    answers = await instance.together(put("a", 1), put("b", 2), put("a", 3), lambda work: write(work, "j", "x").notes)
    assert [answers[0].total, answers[1].total, answers[2].total, answers[3]] == [4, 2, 4, ["x"]]
    [flushed] = instance.commits
    assert flushed.changed == {("accounts", "a"), ("accounts", "b"), ("journals", "j")}
    assert totals(rows) == {"a": (4, 1), "b": (2, 1)}


async def test_a_command_that_fails_has_no_effect_and_those_beside_it_are_saved(instance: Instance, rows: Rows) -> None:
    def fail(work: UnitOfWork) -> None:
        deposit(work, "a", 0, 10)
        deposit(work, "new", 0, 10)
        write(work, "j", "lost")
        work.intend("ask", "a", {})
        work.withdraw("alarm", "a")
        raise NotFound("thing", "x")

    await instance.writer.run(UnitOfWork.intend, "alarm", "a", {})
    answers = await instance.together(put("a", 1), fail, put("a", 2), put("b", 4))
    assert isinstance(answers[1], NotFound)
    assert totals(rows) == {"a": (3, 1), "b": (4, 1)}
    assert rows("SELECT kind, key FROM intents") == [("alarm", "a")]
    assert rows.count("journals") == 0
    assert [key for key, one in events(rows) if isinstance(one, InventoryReserved)] == ["a", "a", "b"]


async def test_what_a_command_returned_is_as_it_left_it_though_a_later_one_fails(
    instance: Instance, rows: Rows
) -> None:
    await instance.writer.run(put("old", 1, 7))
    for account, version, seen in (("old", 2, [7, 8]), ("new", 1, [8])):
        first, second = await instance.together(put(account, 2, 8), then_fail(put(account, 4, 9)))
        assert isinstance(second, RuntimeError)
        assert (first.total, first.version) == totals(rows)[account]
        assert (first.seen, first.version) == (seen, version)


async def test_a_command_works_on_what_the_one_before_it_left(instance: Instance, rows: Rows) -> None:
    def double(work: UnitOfWork) -> int:
        account = work.get(accounts, "a")
        assert account is not None
        account.total *= 2
        return account.total

    answers = await instance.together(put("a", 3), double, then_fail(double), double)
    assert answers[1::2] == [6, 12]
    assert totals(rows) == {"a": (12, 1)}


async def test_an_aggregate_that_a_failed_command_made_is_not_there_for_the_next(instance: Instance) -> None:
    _, found = await instance.together(then_fail(put("a", 1)), lambda work: work.get(accounts, "a"))
    assert found is None


async def test_an_event_that_is_too_large_costs_only_its_own_command(instance: Instance, rows: Rows) -> None:
    def large(work: UnitOfWork) -> None:
        deposit(work, "a", 0, 2)
        write(work, "j", "small", LARGE)

    _, error, _ = await instance.together(put("a", 1), large, put("b", 4))
    assert isinstance(error, ValueError)
    assert "at most 524288 can be published" in str(error)
    assert totals(rows) == {"a": (1, 1), "b": (4, 1)}
    assert rows.count("journals") == 0
    assert len(events(rows)) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda work: work.add(marks, Mark("m2", "taken")),
        lambda work: work.add(accounts, Account("huge", 2**70)),
        lambda work: work.add(accounts, Account("untold", -1)),
        lambda work: work.connection.execute(text("SELECT nonsense FROM nowhere")),
    ],
    ids=["breaks a unique key", "does not fit its column", "has no state to tell", "asks nonsense"],
)
async def test_a_command_that_cannot_be_saved_costs_only_itself(instance: Instance, rows: Rows, spoil: Command) -> None:
    await instance.writer.run(lambda work: work.add(marks, Mark("m1", "taken")))
    answers = await instance.together(put("a", 1), lambda work: (deposit(work, "a", 0, 2), spoil(work)), put("b", 4))
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False]
    assert totals(rows) == {"a": (1, 1), "b": (4, 1)}
    assert rows.count("marks") == 1


async def test_events_are_kept_in_the_order_in_which_they_were_recorded(instance: Instance, rows: Rows) -> None:
    def both(work: UnitOfWork) -> None:
        write(work, "j", "2", "3")
        deposit(work, "a", 4)

    first, last = (lambda work: write(work, "j", "1")), (lambda work: write(work, "k", "6"))
    await instance.together(first, both, put("a", 1, 5), last)
    await instance.writer.run(lambda work: write(work, "j", "7"))
    told = [(key, one.lines[0].sku) for key, one in events(rows) if not isinstance(one, InventoryUpdated)]
    assert told == [("j", "1"), ("j", "2"), ("j", "3"), ("a", "4"), ("a", "5"), ("k", "6"), ("j", "7")]


async def test_a_state_is_told_once_per_transaction_with_a_growing_revision(instance: Instance, rows: Rows) -> None:
    await instance.together(put("a", 1), put("b", 2), put("a", 3))
    await instance.together(put("a", 5), then_fail(put("b", 100)))
    await instance.writer.run(lambda work: work.get(accounts, "a"))
    states = [one for _, one in events(rows) if isinstance(one, InventoryUpdated)]
    told = [(one.sku, one.on_hand, one.revision) for one in states]
    assert told == [("a", 4, 1), ("b", 2, 1), ("a", 9, 2)]


async def test_a_promise_that_is_withdrawn_is_gone_and_may_be_made_anew(instance: Instance, rows: Rows) -> None:
    def promise(word: str) -> Command:
        return lambda work: work.intend("ask", "a", {"word": word})

    def withdraw(work: UnitOfWork) -> None:
        work.withdraw("ask", "a")

    def both(work: UnitOfWork) -> None:
        promise("taken back at once")(work)
        withdraw(work)

    def payloads() -> list[str]:
        return [payload for (payload,) in rows("SELECT payload FROM intents")]

    await instance.together(promise("first"), promise("dropped: one is open"))
    assert payloads() == ['{"word":"first"}']
    await instance.writer.run(promise("dropped too"))
    assert payloads() == ['{"word":"first"}']
    await instance.together(withdraw, promise("anew"), promise("dropped again"))
    assert payloads() == ['{"word":"anew"}']
    await instance.together(promise("dropped"), withdraw)
    assert payloads() == []
    await instance.writer.run(both)
    assert payloads() == []


@on_sqlite
async def test_a_caller_that_went_away_while_it_waited_is_spared_the_work(instance: Instance, rows: Rows) -> None:
    async with instance.busy():
        gone, stays = await instance.begin(put("gone", 1), put("stays", 1))
        gone.cancel()
        await asyncio.wait([gone])
    await stays
    assert gone.cancelled()
    assert totals(rows) == {"stays": (1, 1)}


@on_sqlite
async def test_a_caller_that_goes_away_while_it_is_served_takes_nobody_with_it(instance: Instance, rows: Rows) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(work: UnitOfWork) -> None:
        begun.set()
        go_on.wait(10)
        deposit(work, "slow", 0, 1)

    slow_one, beside = await instance.begin(slow, put("beside", 1))
    await asyncio.to_thread(begun.wait, 10)
    slow_one.cancel()
    await asyncio.wait([slow_one])
    go_on.set()
    await beside
    assert totals(rows)["beside"] == (1, 1)
    assert totals(rows)["slow"] == (1, 1)


@on_sqlite
async def test_too_many_waiting_commands_are_refused_and_later_ones_are_welcome(database_url: str) -> None:
    async with Instance(database_url, most_waiting=3) as instance:
        async with instance.busy():
            tasks = await instance.begin(*(put("a", 1, n) for n in range(3)))
            with pytest.raises(Unavailable, match="too many commands"):
                await instance.writer.run(put("a", 100))
        await asyncio.gather(*tasks)
        assert (await instance.writer.run(put("a", 1))).total == 4


@on_sqlite
@pytest.mark.parametrize("error", [StopIteration(), StopAsyncIteration(), KeyError("x"), TimeoutError()], ids=repr)
async def test_every_caller_gets_an_answer_whatever_a_command_raises(instance: Instance, error: Exception) -> None:
    async with asyncio.timeout(5):
        failed, saved = await instance.together(then_fail(put("a", 1), error), put("a", 2))
    assert isinstance(failed, Exception)
    assert saved.total == 2


@on_sqlite
async def test_a_writer_that_closes_finishes_what_waits_and_takes_nothing_more(database_url: str, rows: Rows) -> None:
    instance = Instance(database_url)
    async with instance:
        async with instance.busy():
            tasks = await instance.begin(*(put("a", 1, n) for n in range(200)))
            closing = asyncio.create_task(instance.writer.close())
            await eventually(lambda: instance.writer._closing)
            with pytest.raises(Unavailable, match="stopping"):
                await instance.writer.run(put("a", 1))
        await closing
        assert totals(rows)["a"][0] == 200
        await asyncio.gather(*tasks)


@on_postgres
async def test_a_lost_connection_is_told_to_the_caller_and_the_next_one_is_served(
    instance: Instance, rows: Rows
) -> None:
    await instance.writer.run(put("a", 1))
    ours = "pid <> pg_backend_pid() AND datname = current_database()"
    rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
    with pytest.raises(DBAPIError) as lost:
        await instance.writer.run(put("a", 10))
    assert is_lost(lost.value)
    assert (await instance.writer.run(put("a", 100))).total == 101


@on_postgres
@pytest.mark.parametrize("kind", ["row", "new row", "journal"])
async def test_two_instances_that_change_the_same_aggregate_at_once_both_have_their_effect(
    database_url: str, rows: Rows, kind: str
) -> None:
    loaded = threading.Barrier(2, timeout=10)
    tries: list[str] = []

    def change(name: str) -> Command:
        def run(work: UnitOfWork) -> None:
            if kind == "journal":
                write(work, "x", name)
            else:
                deposit(work, "x", int(name), 1)
            tries.append(name)
            if tries.count(name) == 1:
                loaded.wait()

        return run

    async with Instance(database_url) as one, Instance(database_url) as two:
        if kind == "row":
            await one.writer.run(put("x", 1, 0))
        await asyncio.gather(one.writer.run(change("1")), two.writer.run(change("2")))
    assert sorted(tries) in (["1", "1", "2"], ["1", "2", "2"])
    if kind == "journal":
        assert sorted(rows.notes("x")) == ["1", "2"]
        assert len(events(rows)) == 2
        return
    changes = 3 if kind == "row" else 2
    assert totals(rows) == {"x": (changes, changes)}
    states = [(one.on_hand, one.revision) for _, one in events(rows) if isinstance(one, InventoryUpdated)]
    assert states == [(n, n) for n in range(1, changes + 1)]


@on_postgres
async def test_in_a_group_only_those_that_somebody_overtook_are_run_on_what_he_left(
    database_url: str, rows: Rows
) -> None:
    async with Instance(database_url) as one, Instance(database_url) as two:
        await one.writer.run(put("x", 1))
        loaded, overtaken = threading.Event(), threading.Event()

        def overtaken_one(work: UnitOfWork) -> int:
            account = deposit(work, "x", 1, 10)
            loaded.set()
            overtaken.wait(10)
            return account.total

        async with one.busy():
            tasks = await one.begin(put("y", 5), overtaken_one, then_fail(put("x", 1000)))
        await asyncio.to_thread(loaded.wait, 10)
        await two.writer.run(put("x", 100))
        overtaken.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[1] == 111
    assert isinstance(answers[2], RuntimeError)
    assert totals(rows) == {"x": (111, 3), "y": (5, 1)}


@on_postgres
async def test_groups_that_wait_for_each_others_rows_are_both_saved_in_the_end(database_url: str, rows: Rows) -> None:
    contended = Store(AccountRow, key="id", load=accounts._load, dump=accounts._dump, contended=True)
    locked = threading.Barrier(2, timeout=10)
    met: list[str] = []

    def lock(first: str, second: str) -> Command:
        def run(work: UnitOfWork) -> None:
            for id in (first, second):
                account = work.get(contended, id)
                assert account is not None
                account.total += 10
                if id == first and first not in met:
                    met.append(first)
                    locked.wait()

        return run

    async with Instance(database_url) as one, Instance(database_url) as two:
        await one.together(put("a", 1), put("b", 1))
        async with one.busy(), two.busy():
            tasks = await one.begin(lock("a", "b"), put("c", 1)) + await two.begin(lock("b", "a"), put("d", 1))
        await asyncio.gather(*tasks)
    assert {id: total for id, (total, _) in totals(rows).items()} == {"a": 21, "b": 21, "c": 1, "d": 1}


@dataclass(frozen=True)
class Plan:
    """A unit of work that a test thought out: what it does, and how it ends."""

    steps: tuple[tuple[str, str, int], ...]
    ending: str
    """`well`, `error` or `large`: with an event that is too large."""
    names_loads: bool

    def unit(self) -> Unit[list[Account]]:
        named = {key for kind, key, _ in self.steps if kind in ("deposit", "set")}
        loads = [(accounts, key) for key in named] if self.names_loads else []
        return Unit(self.run, Origin(TraceContext(), "c", "e"), loads)

    def run(self, work: UnitOfWork) -> list[Account]:
        touched = []
        for kind, key, value in self.steps:
            match kind:
                case "deposit":
                    touched.append(deposit(work, key, value, value))
                case "set":
                    account = toy.account_of(work, key)
                    account.total = value
                    touched.append(account)
                case "write":
                    write(work, key, str(value))
                case "promise":
                    work.intend("ask", key, {"n": value}, once_published=value % 2 == 0)
                case "withdraw":
                    work.withdraw("ask", key)
        if self.ending == "large":
            write(work, "a", LARGE)
        if self.ending == "error":
            raise RuntimeError("told to fail")
        return touched


steps = st.tuples(
    st.sampled_from(["deposit", "set", "write", "promise", "withdraw"]), st.sampled_from("abc"), st.integers(0, 3)
)
endings = st.sampled_from(["well", "well", "error", "large"])
plans = st.builds(Plan, st.lists(steps, max_size=5).map(tuple), endings, st.booleans())
groups = st.lists(st.lists(plans, min_size=1, max_size=5), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def empty() -> Iterator[Connection]:
    """A database in memory, with the tables of the chassis and of the toy."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        tables.metadata.create_all(connection)
        toy.Tables.metadata.create_all(connection)
        connection.commit()
        yield connection
    engine.dispose()


def outcome(connection: Connection, groups: Sequence[Sequence[Plan]]) -> dict[str, Any]:
    """Run groups of units, a transaction each, and return what is in the database then; leave it as it was."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    try:
        for group in groups:
            _save(UnitOfWork(connection, Sqlite(), at), connection, group)
        ids = list(connection.execute(text("SELECT event_id FROM outbox ORDER BY seq")).scalars())
        written = text("SELECT type, aggregate_id, body, correlation_id, causation_id FROM outbox ORDER BY seq")
        promised = text("SELECT starts_with, kind, key, payload, due_at FROM intents ORDER BY kind, key")
        return {
            "accounts": list(connection.execute(text("SELECT id, total, seen, version FROM accounts ORDER BY id"))),
            "journals": list(connection.execute(text("SELECT id, version, type, body FROM journals ORDER BY 1, 2"))),
            "events": list(connection.execute(written)),
            "intents": [(one and ids.index(one), *rest) for one, *rest in connection.execute(promised)],
        }
    finally:
        connection.rollback()


def _save(work: UnitOfWork, connection: Connection, group: Sequence[Plan]) -> None:
    units = [plan.unit() for plan in group]
    work.load(load for unit in units for load in unit.loads)
    outcomes = [attempt(work, unit) for unit in units]
    assert [isinstance(one, Failed) for one in outcomes] == [plan.ending != "well" for plan in group]
    work.flush()
    for account in (account for one in outcomes if isinstance(one, Done) for account in one.value):
        stored = accounts.find(connection, account.id)
        assert stored is not None
        assert (account.total, account.seen, account.version) == (stored.total, stored.seen, stored.version)


@settings(max_examples=150)
@given(groups=groups)
def test_units_that_fail_are_as_if_they_had_never_been(empty: Connection, groups: list[list[Plan]]) -> None:
    good = [[plan for plan in group if plan.ending == "well"] for group in groups]
    tried, never_been = outcome(empty, groups), outcome(empty, good)
    # States are told in the order in which their aggregates were loaded first, by whomever.
    assert recorded(tried) == recorded(never_been)
    assert sorted(tried.pop("events")) == sorted(never_been.pop("events"))
    assert tried == never_been


@settings(max_examples=150)
@given(groups=groups)
def test_units_in_groups_do_what_they_do_one_by_one(empty: Connection, groups: list[list[Plan]]) -> None:
    grouped = outcome(empty, groups)
    alone = outcome(empty, [[plan] for group in groups for plan in group if plan.ending == "well"])
    assert without_versions(grouped["accounts"]) == without_versions(alone["accounts"])
    assert grouped["journals"] == alone["journals"]
    assert recorded(grouped) == recorded(alone)
    assert [row[1:] for row in grouped["intents"]] == [row[1:] for row in alone["intents"]]
    assert last_states(grouped) == {id: (total, version) for id, total, _, version in grouped["accounts"]}


def without_versions(rows: list[Any]) -> list[Any]:
    """Return accounts without their versions, which count transactions."""
    return [tuple(row)[:-1] for row in rows]


def recorded(result: dict[str, Any]) -> list[Any]:
    """Return the events that units recorded, without the state events of their transactions."""
    return [row for row in result["events"] if row.type != InventoryUpdated.DESCRIPTOR.full_name]


def last_states(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the last state that was told of each account; each is told with a higher revision."""
    told: dict[str, tuple[int, int]] = {}
    for row in result["events"]:
        if row.type == InventoryUpdated.DESCRIPTOR.full_name:
            state = InventoryUpdated.FromString(row.body)
            assert state.revision == told.get(state.sku, (0, 0))[1] + 1
            told[state.sku] = (state.on_hand, state.revision)
    return told
