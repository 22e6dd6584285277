"""TCP connections that lead through here, and that can be cut."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self, cast

from cli.probes import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)
_CONNECT = 5.0


class Proxy:
    """A port of one's own that leads to another one, within an `async with`.

    `find` returns that port, anew for each connection, and None while there is none. `tap` sees what comes back.
    """

    def __init__(self, find: Callable[[], int | None], tap: Callable[[bytes], None] | None = None) -> None:
        self.port = 0
        """Where it listens."""
        self._find = find
        self._tap = tap
        self._refuses = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._ends: set[_End] = set()
        self._bridging: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._end(self._accept), LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._bridging:
            task.cancel()
        await asyncio.gather(*self._bridging, return_exceptions=True)
        self._reset()

    def cut(self, *, silent: bool) -> None:
        """Let nothing through: reset connections and refuse new ones, or if `silent` keep them and be still."""
        if silent:
            self._flows.clear()
            for end in self._ends:
                end.hold()
        else:
            self._refuses = True
            self._reset()

    def heal(self) -> None:
        """Let everything through again, that too which was sent while the line was silent."""
        self._refuses = False
        self._flows.set()
        for end in self._ends:
            end.release()

    def _reset(self) -> None:
        for end in [*self._ends]:
            end.reset()

    def _accept(self, near: _End) -> None:
        near.hold()
        if self._refuses:
            near.reset()
            return
        task = asyncio.get_running_loop().create_task(self._bridge(near))
        self._bridging.add(task)
        task.add_done_callback(self._bridging.discard)

    async def _bridge(self, near: _End) -> None:
        await self._flows.wait()
        port = self._find()
        try:
            if port is None:
                raise ConnectionRefusedError
            async with asyncio.timeout(_CONNECT):
                far = await self._connect(port)
        except OSError:
            near.reset()
            return
        near.lead_to(far)
        far.lead_to(near, self._tap)
        near.release()
        far.release()
        if self._refuses or near.closed:
            far.reset()

    async def _connect(self, port: int) -> _End:
        loop = asyncio.get_running_loop()
        _, far = await loop.create_connection(lambda: self._end(_End.hold), LOOPBACK, port)
        return far

    def _end(self, made: Callable[[_End], None]) -> _End:
        return _End(self._ends, self._flows, made)


class _End(asyncio.Protocol):
    """One side of a connection: what it receives, the other side sends."""

    def __init__(self, all_ends: set[_End], flows: asyncio.Event, made: Callable[[_End], None]) -> None:
        self.closed = False
        self._all_ends = all_ends
        self._flows = flows
        self._made = made
        self._other: _End | None = None
        self._tap: Callable[[bytes], None] | None = None

    def lead_to(self, other: _End, tap: Callable[[bytes], None] | None = None) -> None:
        """Pass on to `other` from now on."""
        self._other, self._tap = other, tap

    def hold(self) -> None:
        """Receive nothing."""
        self._transport.pause_reading()

    def release(self) -> None:
        """Receive again, if the line is not silent, and there is somebody to pass it on to."""
        if self._flows.is_set() and self._other is not None:
            self._transport.resume_reading()

    def reset(self) -> None:
        """End the connection as a crash does, with what it still had to send."""
        with suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all_ends.add(self)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        if self._tap is not None:
            self._tap(data)
        if self._other is not None and not self._other._transport.is_closing():
            self._other._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._all_ends.discard(self)
        if self._other is not None and not self._other.closed:
            # Nobody here closes one direction alone, so the end of one is the end of both.
            self._other._transport.close() if error is None else self._other.reset()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.hold()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.release()
