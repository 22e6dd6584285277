"""Asks processes whether they are ready, over bare sockets: no client library is worth its import here."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cli.child import Probe

LOOPBACK = "127.0.0.1"
"""Where everything listens."""
_PATIENCE = 2.0
_POSTGRES_PROTOCOL = 3 << 16


def http_probe(port: int, path: str) -> Probe:
    """Return a probe that is content with a 200 from `path`."""
    request = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nConnection: close\r\n\r\n".encode()

    async def probe() -> str | None:
        answer = await _exchange(port, request, asyncio.StreamReader.read)
        if answer is None:
            return "does not listen yet"
        head, _, body = answer.partition(b"\r\n\r\n")
        return None if head.split(b" ")[1:2] == [b"200"] else _explain(head, body)

    return probe


def nats_probe(port: int) -> Probe:
    """Return a probe that is content once a NATS server says who it is."""

    async def probe() -> str | None:
        answer = await _exchange(port, b"", asyncio.StreamReader.readline)
        return None if answer and answer.startswith(b"INFO ") else "does not listen yet"

    return probe


def postgres_probe(port: int) -> Probe:
    """Return a probe that is content once a PostgreSQL server asks who wants to come in."""
    wish = struct.pack("!I", _POSTGRES_PROTOCOL) + b"user\0weft\0\0"
    request = struct.pack("!I", 4 + len(wish)) + wish

    async def probe() -> str | None:
        answer = await _exchange(port, request, lambda reader: reader.read(1))
        return None if answer == b"R" else "does not take connections yet"

    return probe


async def _exchange(
    port: int, request: bytes, read: Callable[[asyncio.StreamReader], Awaitable[bytes]]
) -> bytes | None:
    """Return what `read` reads of the answer; None if there is none."""
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(request)
                return await read(reader)
            finally:
                writer.close()
    except OSError:
        return None


def _explain(head: bytes, body: bytes) -> str:
    status = head.split(b"\r\n")[0].decode(errors="replace")
    try:
        return json.dumps(json.loads(body))
    except ValueError:
        return status
