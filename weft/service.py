"""A service: its database, writer, streams, intents and gRPC, started together and stopped without loss."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from weft import logs, operations
from weft.backlog import BacklogMetrics
from weft.broker import Broker
from weft.changes import Changes
from weft.clock import Clock, micros
from weft.consumer import Consumer, Subscribed, Subscription
from weft.database import Database
from weft.events import context_of
from weft.grpc_server import GrpcServer
from weft.idempotency import KeptAnswers
from weft.intents import Intent, Intents, Timer
from weft.leases import Leases
from weft.letter_box import LetterBox
from weft.letters import RetryPolicy
from weft.operations import OperationsApi
from weft.ops import OpsServer
from weft.pull import BrokerTrouble
from weft.read_models import ReadModels
from weft.recovery import Recovery
from weft.relay import Relay
from weft.startup import CannotStart
from weft.tasks import end
from weft.tokens import SigningKeys, Verifier, fetch_from
from weft.tracing import Tracing
from weft.writer import Reader, Writer
from weftapi.v1.operations_service_pb2_grpc import add_OperationsServiceServicer_to_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from nats.aio.msg import Msg

    from weft.ops import Produce
    from weft.read_models import ModelReader
    from weft.settings import ServiceSettings
    from weft.tokens import Fetch
    from weft.views import ReadModel
    from weft.work import Flushed

_log = logs.logger("weft.service")
_LETTERS = b"letters"


class Service:
    """One service of the system, composed by its `service.py`.

    A process may run several: nothing of a service lives in a module.
    """

    def __init__(
        self,
        name: str,
        context: str,
        settings: ServiceSettings,
        *,
        migrations: Path,
        clock: Clock | None = None,
    ) -> None:
        """Compose the chassis of the service `name`, which publishes the events of `context` (`commerce.order`).

        Nothing is opened yet. Raises `CannotStart` for a database URL that is none.
        """
        self.name = name
        self.context = context
        self.settings = settings
        self.tracing = Tracing(name, settings.instance)
        self.metrics = CollectorRegistry()
        self.changes = Changes()
        self.database = Database(
            settings.database_url,
            migrations=migrations,
            read_threads=settings.read_threads,
            silence=3 * settings.lease_seconds,
        )
        self.writer = Writer(
            self.database,
            clock or Clock(),
            current_trace=self.tracing.current,
            on_commit=self._committed,
            most_waiting=settings.writer_queue,
        )
        self.reader = Reader(self.database, settings.read_threads)
        self.broker = Broker(settings.nats_url, settings.instance)
        self._answers = KeptAnswers(self.reader, self.writer.clock, settings.answer_retention_hours)
        self._fetch_keys: Fetch | None = fetch_from(settings.jwks_url) if settings.jwks_url else None
        self._keys = SigningKeys(self._fetched_keys, settings.jwks_refresh)
        self.grpc = GrpcServer(
            tracing=self.tracing,
            metrics=self.metrics,
            verifier=Verifier(self._keys, issuer=settings.token_issuer, audience=settings.token_audience),
            host=settings.grpc_host,
            port=settings.grpc_port,
            default_deadline=settings.default_deadline,
            port_setting=self._port_setting("GRPC"),
            answers=self._answers,
        )
        self.consumers: list[Consumer] = []
        self.read_models = ReadModels(
            name, broker=self.broker, writer=self.writer, reader=self.reader, alone=self.database.is_sqlite
        )
        self._kinds: list[Intent | Timer] = []
        self._policy = RetryPolicy(settings.retry_base, settings.retry_cap, settings.retry_attempts)
        self._intents: Intents | None = None
        self._relay: Relay | None = None
        self._leases: Leases | None = None
        self._resources: list[Callable[[], Awaitable[None]]] = []
        self._preparations: list[Callable[[], Awaitable[None]]] = []
        self._pages: dict[str, Produce] = {}
        self._closing = AsyncExitStack()
        self._failed: asyncio.Future[None] | None = None
        self._in_touch_since = 0
        self.ops_port = 0
        self.ready = False
        """Whether it has done what its start asks for: calls are served and streams are read."""

    def serves(self, add_servicer: Callable[[Any, Any], None], servicer: object, service: str) -> None:
        """Serve a gRPC service: its generated `add_…_to_server` function, the servicer, the full name."""
        self.grpc.add(add_servicer, servicer, service)

    def subscribes(self, *subscriptions: Subscription) -> None:
        """Handle events; those of one context are read by one consumer, in the order of its stream."""
        self.consumers += self._make_consumers(self.name, subscriptions)

    def _make_consumers(self, name: str, subscriptions: Sequence[Subscribed]) -> list[Consumer]:
        by_context: dict[str, list[Subscribed]] = {}
        for one in subscriptions:
            by_context.setdefault(context_of(one.type), []).append(one)
        return [
            Consumer(
                name,
                mine,
                broker=self.broker,
                writer=self.writer,
                reader=self.reader,
                batch_size=self.settings.batch_size,
                policy=self._policy,
                patience=self.settings.lease_seconds,
            )
            for mine in by_context.values()
        ]

    def projects(self, model: ReadModel) -> ModelReader:
        """Build a read model from the streams, from their beginning, and keep it up; return what asks it."""
        return self.read_models.add(model, self._make_consumers)

    def acts_on(self, *kinds: Intent | Timer) -> None:
        """Act on promises that units of work make."""
        self._kinds += kinds

    def closes(self, resource: Callable[[], Awaitable[None]]) -> None:
        """Close a resource of the service's own when it stops."""
        self._resources.append(resource)

    def trusts(self, fetch: Fetch) -> None:
        """Verify tokens with the keys that `fetch` returns, instead of those at `settings.jwks_url`."""
        self._fetch_keys = fetch

    def shows(self, path: str, produce: Produce) -> None:
        """Show a page on the operations port."""
        self._pages[path] = produce

    def before_serving(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Have `prepare` run once the database is open, before anything is served. It may raise `CannotStart`."""
        self._preparations.append(prepare)

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Within the `with`, units of work can run, and nothing else does.

        What they record is published by whichever instance works, or once one does. Raises `CannotStart`.
        """
        async with AsyncExitStack() as stack:
            await self._open(stack)
            yield

    async def start(self) -> None:
        """Open the database, listen, and begin to work; returns before the broker is there.

        Raises `CannotStart` when the operator has to mend something first.
        """
        stack = self._closing
        with logs.bound(service=self.name, instance=self.settings.instance):
            if self._fetch_keys is None:
                raise CannotStart(
                    "set WEFT_JWKS_URL: callers' tokens are verified with the keys that the issuer publishes there, "
                    "as user does at http://HOST:OPS_PORT/.well-known/jwks.json"
                )
            self._failed = asyncio.get_running_loop().create_future()
            await self._open(stack)
            stack.push_async_callback(self.tracing.close)
            for resource in self._resources:
                stack.push_async_callback(resource)
            for prepare in self._preparations:
                await prepare()
            await self.read_models.look()
            watching = asyncio.create_task(self.read_models.watch(), name=f"read-models-{self.name}")
            stack.push_async_callback(end, watching)
            stack.push_async_callback(end, asyncio.create_task(self._keys.run(), name=f"keys-{self.name}"))
            self._host_operations()
            await self._listen()
            stack.push_async_callback(self.broker.close)
            working = asyncio.create_task(self._work(), name=f"weft-{self.name}")
            working.add_done_callback(self._ended)
            stack.push_async_callback(end, working)

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.callback(self.database.close)
        await asyncio.to_thread(self.database.open)
        self.writer.start()
        stack.push_async_callback(self.writer.close)
        stack.callback(self.reader.close)

    def _host_operations(self) -> None:
        standing = [kind.kind for kind in self._kinds if isinstance(kind, Timer) and kind.standing]
        told = {"parked": self._look_again, "committed": self._letters_parked}
        api = OperationsApi(
            self.name,
            LetterBox(self.writer, self.reader, self._all_consumers, **told),
            Recovery(self.broker, self.writer, self.reader, self._all_consumers, **told),
            self.read_models,
            self.reader,
            self.writer.clock,
            self._all_consumers,
            standing,
        )
        self.serves(add_OperationsServiceServicer_to_server, api, operations.SERVICE)
        counting = BacklogMetrics(self.metrics, self.reader, self.writer.clock, standing)
        self._closing.push_async_callback(end, asyncio.create_task(counting.run(), name=f"backlog-{self.name}"))

    def _all_consumers(self) -> list[Consumer]:
        return [*self.consumers, *self.read_models.consumers]

    async def _fetched_keys(self) -> Mapping[str, Any]:
        assert self._fetch_keys is not None, "checked at the start"
        return await self._fetch_keys()

    async def _listen(self) -> None:
        settings = self.settings
        checks = {"started": lambda: self.ready}
        ops = OpsServer(
            settings.grpc_host,
            settings.ops_port,
            checks,
            self.metrics,
            pages=self._pages,
            port_setting=self._port_setting("OPS"),
        )
        self.ops_port = await ops.start()
        self._closing.push_async_callback(ops.close)
        await self.grpc.start()

    def _port_setting(self, kind: str) -> str:
        return f"WEFT_{kind}_PORT (where one process hosts all services, WEFT_{self.name.upper()}_{kind}_PORT)"

    async def _work(self) -> None:
        """Connect to the broker, then relay, read streams and act on intents as the leases allow."""
        self.broker.on_reconnect(self._touched)
        await self.broker.connect()
        self._touched()
        await self._make_stream()
        settings = self.settings
        leases = Leases(self.writer, settings.instance, alone=self.database.is_sqlite, patience=settings.lease_seconds)
        self._relay = Relay(
            self.broker,
            self.writer,
            self.reader,
            source=f"/weft/{self.name}",
            starts_intents=any(isinstance(kind, Timer) for kind in self._kinds),
            retention_hours=settings.outbox_retention_hours,
            also_cleans=self._answers.clean,
        )
        leases.add("relay", self._relay.run)
        for consumer in self.consumers:
            leases.add(consumer.name, consumer.run)
        self.read_models.lease_to(leases)
        if self._kinds:
            self._intents = Intents(
                self._kinds,
                self.writer,
                self.reader,
                resumed=self.tracing.resumed,
                caught_up=self._caught_up,
                in_touch=self._in_touch,
                at_once=settings.intents_at_once,
                policy=self._policy,
            )
            leases.add("intents", self._intents.run)
        await self.broker.client.subscribe(self._wake_subject, cb=self._woken)
        await self.broker.client.subscribe(self._free_subject, cb=self._freed)
        self._leases = leases
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(leases.run())
                tasks.create_task(self._announce(leases))
        finally:
            with suppress(*BrokerTrouble):
                if self.broker.connected:
                    await self.broker.client.publish(self._free_subject)

    async def _make_stream(self) -> None:
        while True:
            try:
                await self.broker.ensure_stream(self.context)
                return
            except BrokerTrouble as error:
                _log.warning("waiting for JetStream", error=str(error) or type(error).__name__)
                await asyncio.sleep(0.2)

    def _reads(self, leases: Leases) -> bool:
        """Whether every stream is read, by this instance or by another one."""
        read = all(one.attached or not leases.holds(one.name) for one in self.consumers)
        return leases.settled and read and self.read_models.attached(leases)

    async def _announce(self, leases: Leases) -> None:
        while not self._reads(leases):  # noqa: ASYNC110 - a matter of milliseconds, once
            await asyncio.sleep(0.02)
        self.grpc.set_ready()
        self.ready = True
        _log.info("ready", grpc_port=self.grpc.port, ops_port=self.ops_port)

    def _touched(self) -> None:
        self._in_touch_since = micros(self.writer.clock.now())

    def _in_touch(self) -> int:
        """Return for how many microseconds the broker has been there: anew from when the clock is put back."""
        now = micros(self.writer.clock.now())
        self._in_touch_since = min(self._in_touch_since, now)
        return now - self._in_touch_since

    async def _caught_up(self) -> None:
        await asyncio.gather(*(consumer.caught_up() for consumer in self.consumers))

    @property
    def _wake_subject(self) -> str:
        return f"weft.wake.{self.name}"

    @property
    def _free_subject(self) -> str:
        return f"weft.free.{self.name}"

    async def _freed(self, _: object) -> None:
        if self._leases is not None:
            self._leases.wake()

    async def _woken(self, message: Msg) -> None:
        if message.data == _LETTERS:
            self._look_again()
            return
        if self._relay is not None:
            self._relay.wake()
        if self._intents is not None:
            self._intents.wake()

    def _committed(self, flushed: Flushed) -> None:
        if flushed.changed:
            self.changes.tell(flushed.changed)
        if self._leases is None or not (flushed.events or flushed.intents):
            return
        elsewhere = False
        if flushed.events and self._relay is not None:
            self._relay.wake()
            elsewhere = not self._leases.holds("relay")
        if flushed.intents and self._intents is not None:
            self._intents.wake()
            elsewhere = elsewhere or not self._leases.holds("intents")
        if elsewhere:
            self._wake_others()

    def _wake_others(self, what: bytes = b"") -> None:
        """Say a word to the other instances: it saves the one that holds a lease from finding out by its sweep."""
        if self.broker.connected:
            asyncio.ensure_future(self.broker.client.publish(self._wake_subject, what))  # noqa: RUF006

    def _look_again(self) -> None:
        for consumer in self._all_consumers():
            consumer.look_again()

    def _letters_parked(self) -> None:
        if not self.database.is_sqlite:
            self._wake_others(_LETTERS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self._failed is not None:
            self._failed.set_exception(error)

    async def failed(self) -> None:
        """Return never; raise what ended the service's work, should anything."""
        assert self._failed is not None
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Finish accepted calls, stop reading and relaying, and close. What is not published yet stays."""
        with logs.bound(service=self.name, instance=self.settings.instance):
            await self.grpc.drain(self.settings.drain_seconds)
            await self._closing.aclose()
            _log.info("stopped")
