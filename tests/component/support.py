"""What the tests of the services share: running one, the streams around it, its tables, its refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from sqlalchemy import text

from tests.component.callers import bearer, signed_channel
from weft.broker import Broker
from weft.domain import new_id
from weft.events import context_of, stream_of, subject_of
from weft.testing import EventReader, StoredEvent, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from weft import Service

M = TypeVar("M", bound=Message)

NewDatabase = Callable[[str], Awaitable[str]]
"""What the fixture `new_database_url` is."""


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """Start a service, wait until it is ready, and stop it at the end; build a new one to start it again."""
    try:
        await service.start()
        await eventually(lambda: service.ready, what=f"{service.name} is ready")
        yield service
    finally:
        await service.stop()


@asynccontextmanager
async def calling(service: Service, authorization: str | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """Open a plain channel to a running service, as any client would; its calls are an admin's, unless told."""
    signed = bearer() if authorization is None else authorization
    async with signed_channel(f"127.0.0.1:{service.grpc.port}", signed) as channel:
        yield channel


async def handled_all(service: Service) -> None:
    """Return once the service has handled everything that is in its streams now."""
    await asyncio.gather(*(consumer.caught_up() for consumer in service.consumers))


async def count(service: Service, table: str, where: str = "1 = 1") -> int:
    """Return how many rows of a table of the service's database are as `where` says."""
    query = text(f"SELECT count(*) FROM {table} WHERE {where}")
    return await service.reader.run(lambda connection: int(connection.execute(query).scalar_one()))


async def refusal(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """Make a gRPC call that must fail; return its error."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Return what an INVALID_ARGUMENT says of each field, from its BadRequest detail."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    return {one.field: one.description for one in _detail(error, BadRequest()).field_violations}


def reason(error: grpc.aio.AioRpcError) -> str:
    """Return the machine-readable reason of a refusal, from its ErrorInfo detail."""
    return _detail(error, ErrorInfo()).reason


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """Return after how many seconds an UNAVAILABLE says to try again, from its RetryInfo detail."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    return _detail(error, RetryInfo()).retry_delay.ToTimedelta().total_seconds()


def _detail(error: grpc.aio.AioRpcError, kind: M) -> M:
    metadata: Mapping[str, bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    status = Status.FromString(metadata["grpc-status-details-bin"])
    assert any(detail.Unpack(kind) for detail in status.details), status
    return kind


class Streams:
    """The streams as the other services see them: publish in their name, and read back what came."""

    def __init__(self, url: str) -> None:
        self._broker = Broker(url, "test")
        self._readers: dict[str, EventReader] = {}

    async def __aenter__(self) -> Self:
        await self._broker.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._broker.close()

    @property
    def connected(self) -> bool:
        """Whether the others have the broker now."""
        return self._broker.connected

    async def publish(self, event: Message, key: str = "", **changed: str | None) -> str:
        """Publish an event as the service that owns its type would; return its id.

        Its aggregate is `key`, or what the event's first field says. `changed` replaces attributes of the
        CloudEvent, as in `id`; None leaves one out.
        """
        type_name = event.DESCRIPTOR.full_name
        aggregate_id = key or str(getattr(event, event.DESCRIPTOR.fields[0].name))
        attributes = {"specversion": "1.0", "id": new_id(), "type": type_name, "subject": aggregate_id}
        attributes |= {"source": "/test", "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}
        return await self.publish_bytes(
            subject_of(type_name, aggregate_id), event.SerializeToString(), attributes | changed
        )

    async def publish_bytes(self, subject: str, body: bytes, attributes: Mapping[str, str | None]) -> str:
        """Publish any message, with these attributes of a CloudEvent; return its id."""
        headers = {f"ce-{name}": value for name, value in attributes.items() if value is not None}
        event_id = headers.get("ce-id", new_id())
        await self._broker.ensure_stream(context_of(subject.rpartition(".")[0]))
        await self._broker.js.publish(subject, body, headers={"Nats-Msg-Id": event_id, **headers})
        return event_id

    async def wait_for(self, type: type[Message], key: str, timeout: float = 10.0) -> StoredEvent:
        """Return the first event of a type and an aggregate once it is in its stream."""
        return await self.reader(context_of(type.DESCRIPTOR.full_name)).wait_for(type, key, timeout)

    async def types_of(self, context: str, key: str) -> list[str]:
        """Return the short names of an aggregate's events in the stream of a context, in order."""
        return [event.type.rpartition(".")[2] for event in await self.reader(context).of(key)]

    def reader(self, context: str) -> EventReader:
        """Return a reader of the stream of a context, as in `commerce.order`."""
        return self._readers.setdefault(context, EventReader(self._broker.js, stream_of(context)))
