"""What a team's own tests need: real servers for a test, tokens, events read back, and waiting for conditions.

Nothing here depends on a test framework.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast, overload

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from weft._nats import NotFoundError
from weft.domain import new_id
from weft.embedded import NatsServer, Postgres, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from nats.js import JetStreamContext

__all__ = ["EventReader", "Issuer", "StoredEvent", "eventually", "free_port", "nats_server", "postgres"]

T = TypeVar("T")


@overload
async def eventually(check: Callable[[], Awaitable[T]], timeout: float = ..., what: str = ...) -> T: ...


@overload
async def eventually(check: Callable[[], T], timeout: float = ..., what: str = ...) -> T: ...


async def eventually(
    check: Callable[[], T | Awaitable[T]],
    timeout: float = 30.0,
    what: str = "",
) -> T:
    """Call `check`, which may be a coroutine function, until it returns something true; return that.

    An exception from `check` counts as not yet. After `timeout` seconds it raises `AssertionError`, which
    says `what` was waited for, and what `check` returned or raised last.
    """
    deadline = time.monotonic() + timeout
    seen, cause, pause = "an answer that never came", None, 0.005
    while (left := deadline - time.monotonic()) > 0:
        try:
            value = await _call(check, left)
            if value:
                return value
            seen, cause = f"{value!r}", None
        except Exception as error:
            seen, cause = f"{type(error).__name__}: {error}", error
        await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, 0.05)
    name = what or getattr(check, "__qualname__", repr(check))
    raise AssertionError(f"not within {timeout:g} s: {name}; last seen: {seen}") from cause


async def _call(check: Callable[[], T | Awaitable[T]], seconds: float) -> T:
    value = check()
    if inspect.isawaitable(value):
        async with asyncio.timeout(seconds):
            return await value
    return value


@asynccontextmanager
async def nats_server(*, sync_always: bool = True) -> AsyncIterator[NatsServer]:
    """Run a NATS server of one's own, on a free port and in a temporary folder that goes with it."""
    with _temporary_folder() as folder:
        async with NatsServer(folder, sync_always=sync_always) as server:
            yield server


@asynccontextmanager
async def postgres() -> AsyncIterator[Postgres]:
    """Run a PostgreSQL server of one's own, in a temporary folder that goes with it."""
    with _temporary_folder() as folder:
        async with Postgres(folder) as server:
            yield server


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="weft-"))
    folder.chmod(0o711)  # PostgreSQL may have to run as another user
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as JetStream keeps it."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    data: bytes
    body: Message | None
    """The parsed message; None if its type was not imported or the bytes are not of its type."""

    @property
    def type(self) -> str:
        """The event's type, the full name of a protobuf message."""
        return self.headers.get("ce-type") or self.subject.rpartition(".")[0]

    @property
    def aggregate_id(self) -> str:
        """The id of the aggregate that recorded it."""
        return self.headers.get("ce-subject") or self.subject.rpartition(".")[2]

    @property
    def id(self) -> str:
        """The event's own id, the same in every copy of it."""
        return self.headers.get("ce-id", "")


class EventReader:
    """Reads a stream from its first message on, without a consumer, so that it disturbs nobody."""

    def __init__(self, jetstream: JetStreamContext, stream: str) -> None:
        """Read `stream`, as in `COMMERCE_ORDER`, over a connection of the caller's."""
        self._jetstream = jetstream
        self._stream = stream
        self._events: list[StoredEvent] = []

    async def read(self) -> list[StoredEvent]:
        """Return every event that is in the stream now, in its order. Raises nats-py's errors."""
        while (event := await self._next()) is not None:
            # Another call may have read it meanwhile.
            if not self._events or event.seq > self._events[-1].seq:
                self._events.append(event)
        return list(self._events)

    async def of(self, aggregate_id: str) -> list[StoredEvent]:
        """Return every event of one aggregate that is in the stream now, in its order."""
        return [event for event in await self.read() if event.aggregate_id == aggregate_id]

    async def wait_for(
        self,
        type: str | type[Message],
        aggregate_id: str,
        timeout: float = 10.0,
    ) -> StoredEvent:
        """Return the first event of `type`, a message class or its full name, of an aggregate.

        Raises `AssertionError`, which says what came instead, after `timeout` seconds. A broker that is away
        meanwhile is waited for.
        """
        name = type if isinstance(type, str) else type.DESCRIPTOR.full_name

        async def find() -> StoredEvent | None:
            return next((event for event in await self.of(aggregate_id) if event.type == name), None)

        try:
            return cast("StoredEvent", await eventually(find, timeout, f"{name} of {aggregate_id}"))
        except AssertionError as error:
            there = ", ".join(event.type for event in self._events if event.aggregate_id == aggregate_id)
            raise AssertionError(f"{error}; its events in {self._stream}: {there or 'none'}") from error

    async def _next(self) -> StoredEvent | None:
        seq = self._events[-1].seq + 1 if self._events else 1
        try:
            message = await self._jetstream.get_msg(self._stream, seq=seq, subject=">", next=True)
        except NotFoundError:
            return None
        headers, data = message.headers or {}, message.data or b""
        subject = message.subject or ""
        body = _parse(headers.get("ce-type") or subject.rpartition(".")[0], data)
        return StoredEvent(message.seq or seq, subject, headers, data, body)


def _parse(type_name: str, data: bytes) -> Message | None:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name)
        return message_factory.GetMessageClass(descriptor).FromString(data)
    except (KeyError, DecodeError):
        return None


class Issuer:
    """Issues tokens that services trust whose `jwks_url` is this one's."""

    def __init__(self, folder: Path, *, issuer: str = "weft", audience: str = "weft") -> None:
        """Make a key, and publish it in a file in `folder`."""
        self._issuer = issuer
        self._audience = audience
        self._file = folder / f"jwks-{new_id()}.json"
        self._published: list[dict[str, str]] = []
        self.rotate()

    @property
    def jwks_url(self) -> str:
        """Where the public keys are: a file URL."""
        return self._file.as_uri()

    def rotate(self, *, keep: bool = True) -> None:
        """Sign with a new key from now on; publish it, and the former ones too if `keep`."""
        self._key = Ed25519PrivateKey.generate()
        self._kid = new_id()
        public = jwt.get_algorithm_by_name("EdDSA").to_jwk(self._key.public_key(), as_dict=True)
        former = self._published if keep else []
        self._published = [*former, {**public, "kid": self._kid, "use": "sig", "alg": "EdDSA"}]
        self._file.write_bytes(orjson.dumps({"keys": self._published}))

    def token(
        self, subject: str = "somebody", role: str = "customer", *, lifetime: float = 600.0, **claims: object
    ) -> str:
        """Return an access token that is valid for `lifetime` seconds; `claims` replace its own, None removes."""
        now = datetime.now(UTC)
        own = {"iss": self._issuer, "aud": self._audience, "sub": subject, "role": role, "iat": now, "jti": new_id()}
        own |= {"exp": now + timedelta(seconds=lifetime)} | claims
        stated = {name: value for name, value in own.items() if value is not None}
        return jwt.encode(stated, self._key, algorithm="EdDSA", headers={"kid": self._kid})
