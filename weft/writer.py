"""The one thread that writes, and the few that read.

Writes run one transaction at a time. Commands that wait together are saved together, with one commit; batches
of events take turns with them. One hop between threads per transaction is what makes this fast.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError

from weft import crash_points, logs
from weft.answers import Answers, check_unasked, expect
from weft.database import is_lost
from weft.domain import Refused, Unavailable
from weft.store import Conflict
from weft.work import Done, Failed, Flushed, Origin, Unit, UnitOfWork, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message
    from sqlalchemy import Connection

    from weft.answers import Answer
    from weft.clock import Clock
    from weft.database import Database
    from weft.tracing import TraceContext

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound="Message")

_log = logs.logger("weft.writer")
_GROUP = 64
_ATTEMPTS = 5
_RETRYABLE = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available in time


@dataclass(slots=True)
class _Command:
    unit: Unit[Any]
    context: contextvars.Context
    future: asyncio.Future[Any]
    name: object
    """The function that it comes from; that is what its crash points are called after."""


@dataclass(slots=True)
class _Transaction(Generic[R]):
    body: Callable[[Transaction], R]
    future: asyncio.Future[R]


class Transaction:
    """One transaction on the writer thread; what its units of work did is saved at its end."""

    def __init__(self, connection: Connection, database: Database, clock: Clock) -> None:
        self.connection = connection
        self.sql = database.sql
        self.now = clock.now()
        self._work: UnitOfWork | None = None
        self._answers: Answers | None = None
        self.then: list[Callable[[], None]] = []
        """Called once it is committed, in the writer's thread, before the next one begins."""

    @property
    def work(self) -> UnitOfWork:
        """The aggregates of this transaction."""
        if self._work is None:
            self._work = UnitOfWork(self.connection, self.sql, self.now)
        return self._work

    def run(self, units: Sequence[Unit[R]]) -> list[Done[R] | Failed]:
        """Run units one after the other, with one load of what they all named.

        The value of one that has an answer is that `Answer`, whose message is there after `flush`.
        """
        self.work.load(load for unit in units for load in unit.loads)
        if not any(unit.answer for unit in units):
            return [attempt(self.work, unit) for unit in units]
        self._answers = Answers(self.connection, self.sql, self.now)
        self._answers.load(unit.answer for unit in units if unit.answer is not None)
        return [self._run_once(unit, self._answers) for unit in units]

    def _run_once(self, unit: Unit[Any], answers: Answers) -> Done[Any] | Failed:
        """Run a unit, unless its call has been answered already."""
        if unit.answer is None:
            return attempt(self.work, unit)
        try:
            earlier = answers.earlier(unit.answer)
        except Refused as error:
            return Failed(error)
        if earlier is not None:
            return Done(earlier)
        outcome = attempt(self.work, unit)
        if isinstance(outcome, Failed):
            return outcome
        answers.add(unit.answer, outcome.value)
        return Done(unit.answer)

    def flush(self) -> Flushed:
        """Save what the units did, and their answers."""
        flushed = Flushed() if self._work is None else self._work.flush()
        if self._answers is not None:
            self._answers.save()
        return flushed


class Writer:
    """Runs commands and the chassis' transactions, one at a time, on a thread of its own."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        current_trace: Callable[[], TraceContext],
        on_commit: Callable[[Flushed], None],
        most_waiting: int = 1000,
    ) -> None:
        """`on_commit` is called on the event loop after each commit, before the callers hear of it."""
        self._database = database
        self.clock = clock
        self._current_trace = current_trace
        self._on_commit = on_commit
        self._most_waiting = most_waiting
        self._commands: deque[_Command] = deque()
        self._transactions: deque[_Transaction[Any]] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the thread; call it on the event loop that the callers use."""
        self._loop = asyncio.get_running_loop()
        # In the starter's context, so that its log lines say whose they are.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="weft-writer", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish what waits, then end the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        await asyncio.to_thread(self._thread.join)

    async def run(self, command: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a command in a unit of work of its own and return what it returned, once it is committed.

        It is run again, from the beginning, when somebody else changed what it had loaded. Raises what the
        command raises; `Unavailable` when too many are waiting.
        """
        check_unasked()
        unit = Unit(lambda work: command(work, *args, **kwargs), Origin(self._current_trace()))
        return await self.run_unit(unit, command)

    async def answer(
        self,
        make: Callable[[R], M],
        command: Callable[Concatenate[UnitOfWork, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> M:
        """Run a command as `run` does, and return the call's answer, which `make` makes from what it returned.

        That happens in the command's transaction, after all is saved, so that the answer is kept with the effects if
        the caller sent an idempotency key: `make` does no I/O. A call that was answered already with that key gets
        that answer again, and the command does not run. For methods whose contract says `keeps_answer`, once a call;
        they return the very message. Raises what `run`, and what `make`, raises; `Refused` for a key that another
        request had.
        """
        context = contextvars.copy_context()
        answer = expect(lambda value: context.run(make, value))
        unit: Unit[Any] = Unit(
            lambda work: command(work, *args, **kwargs), Origin(self._current_trace()), answer=answer
        )
        given: Answer[M] = await self.run_unit(unit, command)
        assert given.message is not None, "made before the commit"
        answer.message = given.message
        return given.message

    async def run_unit(self, unit: Unit[R], name: object = None) -> R:
        """Run one unit as `run` does; for a caller that knows its loads or its origin.

        `name`, a string or a function, is what its crash points are called after; `unit.run` by default.
        """
        if len(self._commands) >= self._most_waiting:
            raise Unavailable("too many commands are waiting", retry_after=1.0)
        future: asyncio.Future[R] = self._loop.create_future()
        self._put(self._commands, _Command(unit, contextvars.copy_context(), future, name or unit.run))
        return await future

    async def transact(self, body: Callable[[Transaction], R]) -> R:
        """Run `body` in a transaction; it commits when it returns and rolls back when it raises."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._put(self._transactions, _Transaction(body, future))
        return await future

    def soon(self, call: Callable[[], None]) -> None:
        """Have `call` called on the event loop; for bodies of transactions, which run on the writer thread."""
        self._loop.call_soon_threadsafe(call)

    def _put(self, queue: deque[Any], item: object) -> None:
        with self._ready:
            if self._closing:
                raise Unavailable("the service is stopping")
            queue.append(item)
            self._ready.notify()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not (self._commands or self._transactions or self._closing):
                    self._ready.wait()
                if not (self._commands or self._transactions):
                    break
                commands = [self._commands.popleft() for _ in range(min(_GROUP, len(self._commands)))]
                transaction = self._transactions.popleft() if self._transactions else None
            wanted = [command for command in commands if not command.future.cancelled()]
            if wanted:
                self._run_commands(wanted)
            if transaction is not None:
                self._run_transaction(transaction)
        self._disconnect()

    def _run_commands(self, commands: list[_Command], tries: int = 1) -> None:
        units = [Unit(_in_context(c), c.unit.origin, c.unit.loads, c.unit.answer) for c in commands]
        try:
            names = [command.name for command in commands]
            outcomes, flushed = self._in_transaction(lambda transaction: transaction.run(units), names)
        except Exception as error:
            may_work = _may_work_again(error) or (len(commands) > 1 and not is_lost(error))
            if not may_work or tries >= _ATTEMPTS:
                if isinstance(error, Conflict):
                    error = Unavailable("others are changing the same thing: try again")
                self._settle([(c.future, Failed(error)) for c in commands], Flushed())
                return
            # Together they failed: alone, each succeeds or fails by its own fault.
            for command in commands:
                self._run_commands([command], tries + 1)
            return
        self._settle([(c.future, outcome) for c, outcome in zip(commands, outcomes, strict=True)], flushed)

    def _run_transaction(self, transaction: _Transaction[Any]) -> None:
        try:
            value, flushed = self._in_transaction(transaction.body, [transaction.body])
        except Exception as error:
            self._settle([(transaction.future, Failed(error))], Flushed())
        else:
            self._settle([(transaction.future, Done(value))], flushed)

    def _in_transaction(self, body: Callable[[Transaction], R], names: Sequence[object]) -> tuple[R, Flushed]:
        try:
            if self._connection is None:
                self._connection = self._database.write.connect()
            with self._connection.begin():
                transaction = Transaction(self._connection, self._database, self.clock)
                value = body(transaction)
                flushed = transaction.flush()
                crash_points.reach("before", "commit", *names)
            crash_points.reach("after", "commit", *names)
            for call in transaction.then:
                call()
        except DBAPIError:
            self._disconnect()
            raise
        return value, flushed

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            _let_go(connection)

    def _settle(self, outcomes: list[tuple[asyncio.Future[Any], Done[Any] | Failed]], flushed: Flushed) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcomes, flushed)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.debug("an outcome came after the end of the loop")

    def _deliver(self, outcomes: list[tuple[asyncio.Future[Any], Done[Any] | Failed]], flushed: Flushed) -> None:
        self._on_commit(flushed)
        for future, outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, Failed):
                future.set_exception(_raisable(outcome.error))
            else:
                future.set_result(outcome.value)


class Reader:
    """Runs queries, each statement on its own; what is read is committed.

    They run on a few threads, each of which keeps a connection, and what is ready is handed over together: to
    check a connection out, and to wake the loop, costs more than a query by key. On SQLite a query by key costs
    less than any way to another thread and back, so it runs at once (see docs/decisions).
    """

    def __init__(self, database: Database, threads: int) -> None:
        self._database = database
        self._asked: SimpleQueue[_Query | None] = SimpleQueue()
        self._answered: deque[tuple[_Query, Any, Exception | None]] = deque()
        self._telling = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"weft-reader-{n}", daemon=True) for n in range(threads)
        ]
        self._started = False
        self._closed = False
        self._here: Connection | None = None

    async def run(self, query: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `query` with a connection and return what it returned. Raises `Unavailable` once it is closed."""
        if self._closed:
            raise Unavailable("the service is stopping; try again")
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._asked.put(_Query(answer, contextvars.copy_context(), partial(query, **kwargs) if kwargs else query, args))
        return await answer

    async def look_up(self, query: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a query that finds by key what takes microseconds to find; else as `run`."""
        if self._closed or not self._database.is_sqlite:
            return await self.run(query, *args, **kwargs)
        if self._here is None:
            self._here = self._database.read.connect()
        try:
            return query(self._here, *args, **kwargs)
        except DBAPIError:
            _let_go(self._here)
            self._here = None
            raise

    def close(self) -> None:
        """Wait for the queries that were asked for, then end the threads."""
        self._closed = True
        if self._started:
            for _ in self._threads:
                self._asked.put(None)
            for thread in self._threads:
                thread.join()
        if self._here is not None:
            _let_go(self._here)
            self._here = None

    def _serve(self) -> None:
        connection: Connection | None = None
        while (query := self._asked.get()) is not None:
            was_kept = connection is not None
            try:
                if connection is None:
                    connection = self._database.read.connect()
                self._answer(query, query.context.run(query.ask, connection, *query.args))
            except Exception as error:
                if connection is not None and isinstance(error, DBAPIError):
                    _let_go(connection)
                    connection = None
                    if was_kept and error.connection_invalidated:
                        # Lost since the last query, as when the database was restarted: a new one may be had.
                        self._answer(query, *self._ask_anew(query))
                        continue
                self._answer(query, None, error)
        if connection is not None:
            _let_go(connection)

    def _ask_anew(self, query: _Query) -> tuple[Any, Exception | None]:
        try:
            with self._database.read.connect() as connection:
                return query.context.copy().run(query.ask, connection, *query.args), None
        except Exception as error:
            return None, error

    def _answer(self, query: _Query, value: Any, error: Exception | None = None) -> None:
        self._answered.append((query, value, error))
        if self._telling:
            return
        self._telling = True
        try:
            query.answer.get_loop().call_soon_threadsafe(self._tell)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.debug("an answer came after the end of the loop")

    def _tell(self) -> None:
        # Before it looks: whatever is added from now on has itself told again.
        self._telling = False
        while self._answered:
            query, value, error = self._answered.popleft()
            if query.answer.done():
                continue
            if error is None:
                query.answer.set_result(value)
            else:
                query.answer.set_exception(_raisable(error))


class _Query(NamedTuple):
    answer: asyncio.Future[Any]
    context: contextvars.Context
    ask: Callable[..., Any]
    args: tuple[Any, ...]


def _let_go(connection: Connection) -> None:
    """Close a connection that may be lost."""
    try:
        connection.close()
    except DBAPIError as error:
        _log.debug("closing a lost connection failed", error=str(error))


def _in_context(command: _Command) -> Callable[[UnitOfWork], Any]:
    return lambda work: command.context.copy().run(command.unit.run, work)


def _raisable(error: Exception) -> Exception:
    """Return an error that a future can take: a `StopIteration` would look like the end of whoever awaits it."""
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError("the command raised StopIteration")
    told.__cause__ = error
    return told


def _may_work_again(error: Exception) -> bool:
    if isinstance(error, (Conflict, IntegrityError)):
        return True
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRYABLE
