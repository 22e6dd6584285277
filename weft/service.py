"""A service: its database, writer, streams, intents and gRPC, started together and stopped without loss."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

import uvloop
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from weft import logs
from weft.broker import Broker
from weft.changes import Changes
from weft.clock import Clock, micros
from weft.consumer import Consumer, Subscription
from weft.database import Database
from weft.events import context_of
from weft.grpc_server import GrpcServer
from weft.intents import Intent, Intents, Timer
from weft.leases import Leases
from weft.letters import RetryPolicy
from weft.ops import OpsServer
from weft.pull import BrokerTrouble
from weft.relay import Relay
from weft.startup import CannotStart
from weft.tasks import end
from weft.tokens import SigningKeys, Verifier, fetch_from
from weft.tracing import Tracing
from weft.writer import Reader, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from weft.ops import Produce
    from weft.settings import ServiceSettings
    from weft.tokens import Fetch
    from weft.work import Flushed

_log = logs.logger("weft.service")
_PR_SET_PDEATHSIG = 1
_MOMENT = 2.0
_CLOSING = 4.0  # within the time that `weft up` and container engines give a process to end


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
        )
        self.consumers: list[Consumer] = []
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
        by_context: dict[str, list[Subscription]] = {}
        for one in subscriptions:
            by_context.setdefault(context_of(one.type), []).append(one)
        for mine in by_context.values():
            consumer = Consumer(
                self.name,
                mine,
                broker=self.broker,
                writer=self.writer,
                reader=self.reader,
                batch_size=self.settings.batch_size,
                policy=self._policy,
                patience=self.settings.lease_seconds,
            )
            self.consumers.append(consumer)

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
            stack.push_async_callback(end, asyncio.create_task(self._keys.run(), name=f"keys-{self.name}"))
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
        )
        leases.add("relay", self._relay.run)
        for consumer in self.consumers:
            leases.add(consumer.name, consumer.run)
        if self._kinds:
            self._intents = Intents(
                self._kinds,
                self.writer,
                self.reader,
                resumed=self.tracing.resumed,
                caught_up=self._caught_up,
                in_touch=lambda: micros(self.writer.clock.now()) - self._in_touch_since,
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
        return leases.settled and all(one.attached or not leases.holds(one.name) for one in self.consumers)

    async def _announce(self, leases: Leases) -> None:
        while not self._reads(leases):  # noqa: ASYNC110 - a matter of milliseconds, once
            await asyncio.sleep(0.02)
        self.grpc.set_ready()
        self.ready = True
        _log.info("ready", grpc_port=self.grpc.port, ops_port=self.ops_port)

    def _touched(self) -> None:
        self._in_touch_since = micros(self.writer.clock.now())

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

    async def _woken(self, _: object) -> None:
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
        if elsewhere and self.broker.connected:
            # Another instance holds that lease: a word to it saves it from finding out by its sweep.
            asyncio.ensure_future(self.broker.client.publish(self._wake_subject))  # noqa: RUF006

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


class _Settings(Protocol):
    """What the process takes from the settings of what it hosts."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> Literal["auto", "json", "text"]: ...
    @property
    def die_with_parent(self) -> bool: ...
    @property
    def drain_seconds(self) -> float: ...


class Hosted(Protocol):
    """What a process can host: a `Service`, or what starts, stops and fails as one does."""

    @property
    def settings(self) -> _Settings: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def failed(self) -> None: ...


def run(build: Callable[[], Sequence[Hosted]]) -> NoReturn:
    """Run services as this process until SIGTERM or SIGINT, and end it.

    Exit codes: 0 after a clean stop, 1 after a crash, 2 when the operator has to mend something first, which
    one line on standard error names.
    """
    try:
        services = build()
        settings = services[0].settings
        logs.configure(level=settings.log_level, format=settings.log_format)
        if settings.die_with_parent:
            _die_with_parent()
        uvloop.run(_run(services))
    except CannotStart as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except ValidationError as error:
        print("; ".join(_setting_at_fault(one) for one in error.errors()), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _setting_at_fault(error: ErrorDetails) -> str:
    name = "_".join(str(part) for part in error["loc"]).upper()
    return f"WEFT_{name}: {error['msg']}"


async def _run(services: Sequence[Hosted]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        # All of them to the end, so that none is stopped while it starts.
        for failure in await asyncio.gather(*(service.start() for service in services), return_exceptions=True):
            if failure is not None:
                raise failure
        _calm_garbage_collection()
        waits = [
            asyncio.ensure_future(stopping.wait()),
            *(asyncio.ensure_future(one.failed()) for one in services),
        ]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for one in done:
            one.result()
    finally:
        # A task that does not heed its cancellation, be it a library's, would keep the process.
        _end_after(max(service.settings.drain_seconds for service in services) + _CLOSING, exit_code=1)
        await asyncio.gather(*(service.stop() for service in services))
        if stopping.is_set():
            _end_after(_MOMENT, exit_code=0)


def _end_after(seconds: float, exit_code: int) -> None:
    """End this process, if it does not do so by itself before."""

    def end_now() -> None:
        if exit_code:
            _log.error("not everything could be stopped in time: ending without it")
        os._exit(exit_code)

    last = threading.Timer(seconds, end_now)
    last.daemon = True
    last.start()


def _calm_garbage_collection() -> None:
    """Let a batch's thousands of short-lived objects go by reference count: the cycle detector's default of
    looking after every 700 new ones costs a fifth of a batch's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the supervisor ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() == 1:
            raise CannotStart("the supervisor ended before its service began")
