"""The NATS connection, with headers that are written and read once per event instead of once per header.

nats-py spends half of a message's time on headers: it strips, checks and translates every name and value of
every message. Ours are made of checked ids, and look the same but for a few values. Two methods are overridden;
whatever they do not know goes the ordinary way (see docs/decisions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.protocol.command import hpub_cmd

_FIRST_LINE = b"NATS/1.0\r\n"


class HeaderLines(bytes):
    """Headers as they travel: `Name: value` lines, each with its CRLF, without the first and the empty line."""


def encode(headers: Mapping[str, str]) -> HeaderLines:
    """Return headers as lines. Names and values must be without CR and LF; raises `ValueError` otherwise."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header must be one line")
    return HeaderLines(lines.encode())


class Connection(Client):
    """nats-py's client, which also takes `HeaderLines` as headers."""

    async def _send_publish(self, subject: str, reply: str, payload: bytes, payload_size: int, headers: Any) -> None:
        if not isinstance(headers, HeaderLines):
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        await self._send_command(hpub_cmd(subject, reply, b"%b%b\r\n" % (_FIRST_LINE, headers), payload))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # A status from the server stands on the first line and takes the ordinary way.
        if headers and headers.startswith(_FIRST_LINE):
            try:
                return dict(line.split(": ", 1) for line in headers[10:-4].decode().split("\r\n"))  # type: ignore[misc]
            except ValueError:
                return await super()._process_headers(headers)
        return await super()._process_headers(headers)
