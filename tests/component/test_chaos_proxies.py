"""Connections that lead through a proxy, and what becomes of them when it is cut."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from cli.chaos.proxies import Proxy
from weft.tasks import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

type_of_end = (asyncio.IncompleteReadError, ConnectionError)


class Line:
    """A connection through a proxy to a server that echoes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, text: bytes) -> bytes:
        """Send, and return as much of what comes back."""
        self.writer.write(text)
        return await self.reader.readexactly(len(text))


@asynccontextmanager
async def proxied() -> AsyncIterator[Proxy]:
    """Yield a proxy to a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(2**16):
            writer.write(some)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        async with Proxy(lambda: port) as proxy:
            yield proxy
    finally:
        server.close()


@asynccontextmanager
async def line_through(proxy: Proxy) -> AsyncIterator[Line]:
    """Yield a connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def test_what_is_sent_comes_through_whole() -> None:
    async with proxied() as proxy, line_through(proxy) as line:
        sent = bytes(range(256)) * 10_000
        assert await line.say(sent) == sent


async def test_a_cut_resets_what_is_connected_and_refuses_others_until_it_is_healed() -> None:
    async with proxied() as proxy, line_through(proxy) as line:
        assert await line.say(b"one") == b"one"
        proxy.cut(silent=False)
        with pytest.raises(type_of_end):
            await line.say(b"two")
        async with line_through(proxy) as refused:
            with pytest.raises(type_of_end):
                await refused.say(b"three")
        proxy.heal()
        async with line_through(proxy) as again:
            assert await again.say(b"four") == b"four"


async def test_a_silent_line_delivers_what_was_sent_once_it_is_healed() -> None:
    async with proxied() as proxy, line_through(proxy) as line:
        assert await line.say(b"one") == b"one"
        proxy.cut(silent=True)
        waiting = asyncio.create_task(line.say(b"two"))
        async with line_through(proxy) as late:
            late_too = asyncio.create_task(late.say(b"three"))
            done, _ = await asyncio.wait([waiting, late_too], timeout=0.1)
            assert not done
            proxy.heal()
            assert await asyncio.gather(waiting, late_too) == [b"two", b"three"]
        await end(waiting, late_too)


async def test_a_connection_to_nobody_is_refused() -> None:
    async with Proxy(lambda: None) as proxy, line_through(proxy) as line:
        with pytest.raises(type_of_end):
            await line.say(b"hello")
