"""Reading a part of a stream once, in order and beside its consumers, which it does not disturb."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from weft import logs
from weft._nats import api
from weft.clock import from_micros
from weft.domain import new_id
from weft.events import Delivery
from weft.pull import BrokerTrouble, numbers_of
from weft.tasks import happens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.subscription import Subscription

    from weft.broker import Broker

_log = logs.logger("weft.scan")
_PATIENCE = 5.0
_FORGOTTEN_AFTER = 30.0
_NANOS = 1_000_000_000
_MOST_BYTES = 8 * 1024 * 1024


class Scan:
    """Messages of a stream from one on, up to its end: `async with` it, then `take` until nothing comes.

    It reads through a consumer that the broker keeps in memory and forgets by itself, should nobody delete it.
    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        subjects: Sequence[str] = (),
        *,
        from_seq: int = 1,
        from_time: int | None = None,
        headers_only: bool = False,
    ) -> None:
        """Read messages with `subjects`, or all, from a number or a time (microseconds) on."""
        self._broker = broker
        self._stream = stream
        self._name = f"weft-scan-{new_id()}"
        start: dict[str, object] = {"deliver_policy": api.DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": from_seq}
        if from_time is not None:
            moment = from_micros(max(from_time, 0))
            start = {"deliver_policy": api.DeliverPolicy.BY_START_TIME, "opt_start_time": moment}
        self._config = api.ConsumerConfig(
            name=self._name,
            ack_policy=api.AckPolicy.NONE,
            filter_subjects=list(subjects) or None,
            headers_only=headers_only or None,
            inactive_threshold=_FORGOTTEN_AFTER,
            mem_storage=True,
            num_replicas=1,
            **start,  # type: ignore[arg-type]
        )
        self._subscription: Subscription | None = None
        self._here: list[Delivery] = []
        self._wanted = 0
        self._came = 0
        self._answered = asyncio.Event()
        self._at_end = False
        self._trouble = ""
        self.time = 0
        """When the last message that was taken came into the stream, in microseconds."""

    async def __aenter__(self) -> Self:
        """Raises one of `BrokerTrouble` if the broker cannot do that now."""
        client = self._broker.client
        info = await self._broker.js.add_consumer(self._stream, self._config)
        self._at_end = not info.num_pending
        self._subscription = await client.deliver_to(client.new_inbox(), self._receive)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(*BrokerTrouble, ValueError):
            if self._subscription is not None and not self._broker.client.is_closed:
                await self._broker.client.no_longer(self._subscription)
            await self._broker.js.delete_consumer(self._stream, self._name)

    async def take(self, most: int) -> list[Delivery]:
        """Return the next messages, at most `most`; none at the end. Raises one of `BrokerTrouble`.

        `headers_only` leaves their bodies out.
        """
        assert self._subscription is not None, "entered"
        self._here, self._wanted = [], most
        self._answered.clear()
        if self._at_end:
            return []
        body = {"batch": most, "max_bytes": _MOST_BYTES, "expires": int(_PATIENCE * _NANOS)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._broker.client.publish(subject, json.dumps(body).encode(), reply=self._subscription.subject)
        if not await happens(self._answered, 2 * _PATIENCE) or self._trouble:
            raise TimeoutError(f"{self._stream} could not be read on: {self._trouble or 'no answer'}")
        return self._here

    def _receive(self, subject: str, reply: str, headers: dict[str, str], body: bytes) -> None:
        if reply.startswith("$JS.ACK."):
            self._accept(subject, reply, headers, body)
        elif status := headers.get("Status"):
            self._hear(status, headers.get("Description", ""))

    def _accept(self, subject: str, reply: str, headers: dict[str, str], body: bytes) -> None:
        seq, number, nanos, following = numbers_of(reply)
        self._came += 1
        if number != self._came:
            self._trouble = f"message {number} came instead of {self._came}"
        self._here.append(Delivery(self._stream, seq, subject, headers, body))
        self.time = nanos // 1000
        self._at_end = following == 0
        if self._at_end or self._trouble or len(self._here) == self._wanted:
            self._answered.set()

    def _hear(self, status: str, description: str) -> None:
        if "Batch Completed" in description:  # as is known already
            return
        if "MaxBytes" not in description or not self._here:
            self._trouble = f"{status} {description}"
        self._answered.set()
