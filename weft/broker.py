"""The connection to NATS JetStream: streams, durable ordered consumers, and publishing with acknowledgement."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from weft import crash_points, logs
from weft._nats import APIError, JetStreamContext, NotFoundError, api, errors, prepare_for
from weft.clock import micros
from weft.domain import new_id
from weft.events import Delivery, stream_of
from weft.wire import Connection, HeaderLines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nats.aio.msg import Msg

_log = logs.logger("weft.broker")
_TIMEOUT = 5.0
_IN_USE = 10058  # "stream name already in use with a different configuration"
_NO_MESSAGE = 10037

BATCH_ATOMICALLY_FROM = 16
"""Fewer messages than this are quicker one by one: a batch costs four fsyncs however small it is."""
MOST_IN_BATCH = 1000

Outgoing = tuple[str, HeaderLines, bytes]
"""A message to publish: subject, headers (with a `Nats-Msg-Id`), body."""


class Unpublished(Exception):
    """The broker did not take a message, or it is not known whether it did: publish it again."""


class Broker:
    """A connection that never gives up, and the few things of JetStream that Weft uses."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._complained = False
        self._refused = False
        self._on_reconnect: list[Callable[[], None]] = []
        self.losses = 0
        """How often the connection was lost: whatever is at its other end now may not know what it once said."""
        self.client = Connection()
        self.js: JetStreamContext = self.client.jetstream(timeout=_TIMEOUT)

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self.client.is_connected

    def on_reconnect(self, call: Callable[[], None]) -> None:
        """Have `call` called whenever the connection has been made anew."""
        self._on_reconnect.append(call)

    async def connect(self) -> None:
        """Connect, however long that takes; say so once if it takes long."""
        prepare_for(self._url)
        while True:
            try:
                await self.client.connect(
                    servers=self._url.split(","),
                    name=self._name,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]
                    connect_timeout=2,
                    error_cb=self._complain,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    ping_interval=10,
                    max_outstanding_pings=2,
                    skip_subject_validation=True,  # ids are checked at the edge
                )
                return
            except (OSError, errors.Error, TimeoutError) as error:
                await self._complain(error)
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Send what is buffered, and close."""
        if self.client.is_connected:
            try:
                await self.client.flush(timeout=2)
            except errors.Error as error:
                _log.debug("not everything could be sent before closing", error=str(error))
        if not self.client.is_closed:
            try:
                await self.client.close()
            except OSError as error:
                _log.debug("the connection was lost before it was closed", error=str(error))

    async def _complain(self, error: Exception) -> None:
        tell = _log.debug if self._complained or self.client.is_connected else _log.warning
        self._complained = True
        tell(
            "no connection to the broker yet",
            url=_without_password(self._url),
            error=str(error) or type(error).__name__,
        )

    async def _disconnected(self) -> None:
        self.losses += 1
        self.client.give_up_requests()
        if not self.client.is_closed:
            _log.warning("the broker is gone; reconnecting")

    async def _reconnected(self) -> None:
        _log.info("the broker is back")
        for call in self._on_reconnect:
            call()

    async def ensure_stream(self, context: str) -> str:
        """Make the stream of a context unless it is there, and return its name.

        Streams keep everything and refuse when full: a new service builds its data from them. Raises
        `nats.errors.Error` if the broker cannot answer now.
        """
        name = stream_of(context)
        config = api.StreamConfig(
            name=name,
            subjects=[f"{context}.>"],
            storage=api.StorageType.FILE,
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,
            max_age=0,
            duplicate_window=120,
            deny_delete=True,
            deny_purge=True,
            allow_direct=True,
            allow_atomic=True,
        )
        try:
            await self.js.add_stream(config)
        except APIError as error:
            # An operator may have given it replicas or limits: that one stands.
            if error.err_code != _IN_USE:
                raise
        return name

    async def ensure_consumer(self, stream: str, name: str, subjects: Sequence[str], window: int) -> None:
        """Make or update a durable pull consumer of `subjects`, of which `window` messages may be in flight.

        It is acknowledged up to a message: whoever reads it handles messages in order (see `Pull`).
        """
        config = api.ConsumerConfig(
            name=name,
            durable_name=name,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.ALL,
            ack_wait=30,
            max_ack_pending=window * 2,
            max_waiting=16,
            filter_subjects=list(subjects),
        )
        await self.js.add_consumer(stream, config)

    async def reset_consumer(self, stream: str, name: str, seq: int) -> None:
        """Forget what was delivered: the next message is the first one at or after `seq`.

        JetStream's consumer reset (ADR-60, server 2.14 and later).
        """
        await self._request(f"$JS.API.CONSUMER.RESET.{stream}.{name}", {"seq": seq})

    async def delivered_seq(self, stream: str, name: str) -> int:
        """Return the stream sequence up to which the consumer has handed out messages."""
        info = await self.js.consumer_info(stream, name)
        return (info.delivered.stream_seq or 0) if info.delivered else 0

    async def stream_state(self, stream: str) -> tuple[int, int]:
        """Return when a stream was made (microseconds), and the number of its last message; 0 for none."""
        info = await self.js.stream_info(stream)
        return micros(info.created) if info.created else 0, info.state.last_seq

    async def last_seq(self, stream: str, subject: str = "") -> int:
        """Return the number of the last message in a stream, or of the last with a subject; 0 for none."""
        if not subject:
            return (await self.stream_state(stream))[1]
        try:
            return (await self.js.get_msg(stream, subject=subject, direct=False)).seq or 0
        except NotFoundError:
            return 0

    async def message_at(self, stream: str, seq: int) -> Delivery | None:
        """Return the message with a number, or None; asked of the stream's leader, who knows for certain.

        Raises `nats.errors.Error` or `APIError` if it cannot answer now.
        """
        try:
            answer = await self._request(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": seq})
        except APIError as error:
            if error.err_code == _NO_MESSAGE:
                return None
            raise
        found = answer["message"]
        headers = await self.client.read_headers(b64decode(found.get("hdrs", "")))
        return Delivery(stream, seq, found["subject"], headers, b64decode(found.get("data", "")))

    async def _request(self, subject: str, body: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self.client.request(subject, json.dumps(body).encode(), timeout=_TIMEOUT)
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            raise APIError(**answer["error"])
        return answer

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[int]:
        """Publish messages of one stream, in order, and return the numbers of those that are stored for certain.

        Fewer than all means that the next one failed: publish from there again. Where it can, JetStream stores
        them as one atomic batch (ADR-50). A message that is there already, by its `Nats-Msg-Id`, counts as
        stored, with the number that it has. Once the connection is lost, nothing is sent over the next one.
        """
        losses = self.losses
        if len(messages) >= BATCH_ATOMICALLY_FROM:
            try:
                return await self._publish_batch(messages[:MOST_IN_BATCH])
            except Unpublished as error:
                # One duplicate rejects the whole batch, so after a crash this is what happens.
                _log.debug("batch refused, publishing one by one", error=str(error))
        stored: list[int] = []
        for message in messages:
            if self.losses != losses:
                return stored  # the connection that stands now was not meant
            try:
                stored.append(_acknowledged(await self._ask(*message))["seq"])
            except Unpublished as error:
                tell = _log.debug if self._refused else _log.warning
                tell("the broker did not take an event", subject=message[0], error=str(error))
                self._refused = True
                return stored
        self._refused = False
        return stored

    async def _publish_batch(self, messages: Sequence[Outgoing]) -> range:
        batch = new_id().encode()
        marked = [
            (
                subject,
                HeaderLines(b"%bNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (headers, batch, number)),
                body,
            )
            for number, (subject, headers, body) in enumerate(messages, 1)
        ]
        first = await self._ask(*marked[0])
        if first.data:  # answered with nothing when the batch may begin, with an error otherwise
            _acknowledged(first)
        try:
            await self.client.publish_all(marked[1:-1])
        except errors.Error as error:
            raise Unpublished(str(error) or type(error).__name__) from error
        subject, headers, body = marked[-1]
        answer = _acknowledged(await self._ask(subject, HeaderLines(headers + b"Nats-Batch-Commit: 1\r\n"), body))
        if answer.get("count") != len(messages):
            raise Unpublished(f"{answer.get('count')} of {len(messages)} messages were stored")
        last: int = answer["seq"]
        return range(last - len(messages) + 1, last + 1)

    async def _ask(self, subject: str, headers: HeaderLines, body: bytes) -> Msg:
        type_name = subject.rpartition(".")[0]
        crash_points.reach("before", "publish", type_name)
        try:
            reply = await self.client.request(subject, body, timeout=_TIMEOUT, headers=headers)
        except (errors.Error, TimeoutError) as error:
            raise Unpublished(str(error) or type(error).__name__) from error
        crash_points.reach("after", "publish", type_name)
        return reply


def _acknowledged(reply: Msg) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise Unpublished(f"{answer['error'].get('err_code')}: {answer['error'].get('description')}")
    if "seq" not in answer:
        raise Unpublished(f"an answer without a sequence: {answer}")
    return answer


def _without_password(url: str) -> str:
    return ",".join(part.rpartition("@")[2] for part in url.split(","))
