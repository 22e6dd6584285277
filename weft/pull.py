"""Reading a stream in order: a durable consumer of JetStream, read by one holder at a time.

The position is the service's own, committed with the effects; the consumer is reset to it whenever there is
doubt (a new holder, a new connection, a gap). So the broker's redelivery never decides the order.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING

from weft import crash_points, logs
from weft._nats import APIError, errors
from weft.events import Delivery
from weft.tasks import happens

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

    from weft.broker import Broker

_log = logs.logger("weft.pull")
_NANOS = 1_000_000_000
_SILENT = 4


class Pull:
    """Messages of one consumer, in order and without gaps, from just after a position."""

    def __init__(self, broker: Broker, stream: str, consumer: str, *, window: int, patience: float) -> None:
        """Keep at most `window` messages here that are not taken yet.

        After `patience` seconds of silence another instance may read: what a paused one has asked for must have
        expired by then, or it would get messages that are meant for its successor.
        """
        self._broker = broker
        self._stream = stream
        self._consumer = consumer
        self._window = window
        self._expires = max(patience * 0.6, 1.0)
        self._heartbeat = self._expires / 2.5
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._subscription: Subscription | None = None
        self._asked = 0
        self._last_consumer_seq = 0
        self._last_seq = 0
        # Whether anything came since the last heartbeat was due, and how many of those nothing came before.
        self._heard = True
        self._silent = 0
        self._broken = ""
        self._replies: deque[tuple[int, str]] = deque()

    async def start(self, position: int) -> None:
        """Begin, or begin again, with the first message after `position`.

        Raises `nats.errors.Error` or `APIError` if the broker cannot do that now.
        """
        await self.stop()
        await self._broker.reset_consumer(self._stream, self._consumer, position + 1)
        self._waiting.clear()
        self._replies.clear()
        self._arrived.clear()
        self._asked = 0
        self._last_consumer_seq = 0
        self._last_seq = position
        self._broken = ""
        self._heard = True
        self._silent = 0
        client = self._broker.client
        self._subscription = await client.deliver_to(client.new_inbox(), self._receive)
        await self._ask()

    async def stop(self) -> None:
        """Take no more messages."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._broker.client.is_closed:
            try:
                await self._broker.client.no_longer(subscription)
            except (errors.Error, ValueError) as error:
                _log.debug("unsubscribing failed", error=str(error))

    def doubt(self, reason: str) -> None:
        """Have the next `take` raise `Doubtful`: messages may be missing."""
        self._broken = self._broken or reason
        self._arrived.set()

    async def take(self, most: int) -> list[Delivery]:
        """Return the messages that are here, at most `most`, waiting only for the first.

        Raises `Doubtful` when some may be missing: `start` again from the position that is committed.
        """
        while not self._waiting:
            self._check()
            self._arrived.clear()
            await self._ask()
            if not await happens(self._arrived, self._heartbeat):
                self._silent = 0 if self._heard else self._silent + 1
                self._heard = False
                if self._silent == _SILENT:
                    self.doubt("the broker is silent")
        self._check()
        # Those of a burst that are on the socket already come along.
        await asyncio.sleep(0)
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        await self._ask()
        return taken

    async def acknowledge(self, seq: int) -> None:
        """Tell the broker that everything up to `seq` is handled; it is only told, the position is ours."""
        reply = ""
        while self._replies and self._replies[0][0] <= seq:
            reply = self._replies.popleft()[1]
        if reply:
            try:
                crash_points.reach("before", "ack", self._consumer)
                await self._broker.client.publish(reply, b"+ACK")
                crash_points.reach("after", "ack", self._consumer)
            except errors.Error as error:
                _log.debug("an acknowledgement was not sent", error=str(error))

    def _check(self) -> None:
        if self._broken:
            raise Doubtful(self._broken)

    async def _ask(self) -> None:
        """Keep the window open: ask for more once half of it is used."""
        wanted = self._window - len(self._waiting) - self._asked
        if self._subscription is None or wanted * 2 < self._window:
            return
        self._asked += wanted
        body = {
            "batch": wanted,
            "expires": int(self._expires * _NANOS),
            "idle_heartbeat": int(self._heartbeat * _NANOS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        try:
            await self._broker.client.publish(subject, json.dumps(body).encode(), reply=self._subscription.subject)
        except errors.Error as error:
            self.doubt(f"cannot ask for messages: {error}")

    def _receive(self, subject: str, reply: str, headers: dict[str, str], body: bytes) -> None:
        self._heard = True
        if reply.startswith("$JS.ACK."):
            self._accept(subject, reply, headers, body)
        elif status := headers.get("Status"):
            self._hear(status, headers)

    def _accept(self, subject: str, reply: str, headers: dict[str, str], body: bytes) -> None:
        seq, consumer_seq, *_ = numbers_of(reply)
        self._asked = max(0, self._asked - 1)
        if consumer_seq != self._last_consumer_seq + 1:
            self.doubt(f"message {consumer_seq} came after {self._last_consumer_seq}")
            return
        self._last_consumer_seq = consumer_seq
        if seq <= self._last_seq:
            return  # redelivered while it is being handled
        self._last_seq = seq
        self._replies.append((seq, reply))
        self._waiting.append(Delivery(self._stream, seq, subject, headers, body))
        self._arrived.set()

    def _hear(self, status: str, headers: dict[str, str]) -> None:
        if status == "100":  # idle heartbeat
            if int(headers.get("Nats-Last-Consumer", "0")) > self._last_consumer_seq:
                self.doubt("somebody else got messages of this consumer")
            return
        if status in ("404", "408"):  # what was asked for has expired
            self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", self._window)))
            self._arrived.set()
            return
        self.doubt(f"{status} {headers.get('Description', '')}")


class Doubtful(Exception):
    """Messages may be missing; read again from the committed position."""


def numbers_of(reply: str) -> list[int]:
    """Return what a message's reply subject, `$JS.ACK.[domain.account.]stream.consumer.delivered.…`, says of it.

    That is its number in the stream, its number for the consumer, its time (nanoseconds), and how many follow.
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7
    return list(map(int, tokens[first : first + 4]))


BrokerTrouble = (errors.Error, APIError, TimeoutError, OSError)
"""What a call to the broker raises when the broker cannot answer now."""
