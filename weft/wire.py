"""The NATS connection, with headers that are written and read once per event instead of once per header.

nats-py spends half of a message's time on headers: it strips, checks and translates every name and value of
every message. Ours are made of checked ids, and look the same but for a few values. Two of its methods are
overridden; whatever they do not know goes the ordinary way (see docs/decisions).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from weft._nats import Client, ConnectionClosedError, hpub_cmd

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

_FIRST_LINE = b"NATS/1.0\r\n"
_LAST_LINES = b"\r\n\r\n"
_LINE = re.compile(r"^([!-9;-~]+): ((?:\S(?:[^\r\n]*\S)?)?)\r\n", re.MULTILINE)


class HeaderLines(bytes):
    """Headers as they travel: `Name: value` lines, each with its CRLF, without the first and the empty line."""


def encode(headers: Mapping[str, str]) -> HeaderLines:
    """Return headers as lines. Names and values must be without CR and LF; raises `ValueError` otherwise."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header must be one line")
    return HeaderLines(lines.encode())


Sink = Callable[[str, str, dict[str, str], bytes], None]
"""Takes a message at once, in the reading task: subject, reply subject, headers, body."""


class Connection(Client):
    """nats-py's client, which also takes `HeaderLines` as headers, many messages at once, and sinks."""

    def __init__(self) -> None:
        super().__init__()
        self._sinks: dict[int, Sink] = {}

    async def close(self) -> None:
        """Close; what waits for a lost connection is forgotten."""
        if not self.is_connected:
            # nats-py would try to send it, fail, and leave its subscriptions' tasks behind.
            self._pending, self._pending_data_size = [], 0
        await super().close()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: Any = None,
    ) -> Msg:
        """Ask as nats-py does, but over a connection that stands: nothing is kept to be sent later.

        Raises `nats.errors.Error`, at once when there is no connection or when it is lost (`give_up_requests`).
        """
        if not self.is_connected:
            raise ConnectionClosedError
        return await super().request(subject, payload, timeout, old_style, headers)

    def give_up_requests(self) -> None:
        """Have the requests in progress raise: the connection on which they would be answered is lost.

        What was not sent yet is forgotten: after a reconnect, nobody would know that it was.
        """
        self._pending, self._pending_data_size = [], 0
        for waiting in list(self._resp_map.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionClosedError())

    async def publish_all(self, messages: Iterable[tuple[str, HeaderLines, bytes]]) -> None:
        """Publish messages, none of which asks for a reply, with one write.

        Raises `nats.errors.Error` when there is no connection: nothing is kept for later.
        """
        if not self.is_connected:
            raise ConnectionClosedError
        commands = [
            hpub_cmd(subject, "", b"%b%b\r\n" % (_FIRST_LINE, headers), body) for subject, headers, body in messages
        ]
        await self._send(b"".join(commands), len(commands))

    async def deliver_to(self, subject: str, sink: Sink) -> Subscription:
        """Subscribe: each message goes straight to `sink`, without a queue and a task in between."""
        subscription = await self.subscribe(subject, cb=_no_queue)
        self._sinks[subscription._id] = sink
        return subscription

    async def no_longer(self, subscription: Subscription) -> None:
        """End what `deliver_to` began. Raises `nats.errors.Error` when that cannot be told to the server."""
        self._sinks.pop(subscription._id, None)
        await subscription.unsubscribe()

    async def read_headers(self, raw: bytes) -> dict[str, str]:
        """Return the headers of a message as the server keeps it, read as those that come with a message are."""
        found = _decode(raw) if raw else {}
        return await self._process_headers(raw) or {} if found is None else found

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        sink = self._sinks.get(sid)
        if sink is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        found = _decode(headers) if headers else {}
        if found is None:
            found = await super()._process_headers(headers) or {}
        try:
            sink(subject.decode("utf-8", "replace"), reply.decode(), found, data)
        except Exception as error:  # else it would end the task that reads for everybody
            await self._error_cb(error)

    async def _send_publish(self, subject: str, reply: str, payload: bytes, payload_size: int, headers: Any) -> None:
        if isinstance(headers, HeaderLines):
            await self._send(hpub_cmd(subject, reply, b"%b%b\r\n" % (_FIRST_LINE, headers), payload), 1)
        else:
            await super()._send_publish(subject, reply, payload, payload_size, headers)

    async def _send(self, command: bytes, messages: int) -> None:
        self.stats["out_msgs"] += messages
        self.stats["out_bytes"] += len(command)
        await self._send_command(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


async def _no_queue(_: object) -> None:
    """Stand where a callback has to be; a sink gets the messages."""


def _decode(headers: bytes) -> dict[str, str] | None:
    """Return plain headers; None for what takes the ordinary way, such as a status on the first line."""
    if not headers.startswith(_FIRST_LINE) or not headers.endswith(_LAST_LINES):
        return None
    try:
        lines = headers[len(_FIRST_LINE) : -2].decode()
    except UnicodeDecodeError:
        return None
    found = _LINE.findall(lines)
    return dict(found) if len(found) == lines.count("\n") else None
