"""What goes back to a client, and how it is sent."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from uvicorn._types import ASGISendCallable

    Header = tuple[bytes, bytes]

BASE_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer that is JSON."""


class Response(NamedTuple):
    """A whole answer; the length and what the connection needs are added when it is sent."""

    status: int
    headers: Sequence[Header]
    body: bytes


class CutOff(Exception):
    """The rest of a body will not come, and there is no other way to say so than to cut the connection."""


class Parts(Protocol):
    """A body in parts, as they come."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the parts. Raises `CutOff`."""

    async def aclose(self) -> None:
        """Make no more of them, and let go of what they are made of."""


class Streamed(NamedTuple):
    """An answer whose body is sent as it is made; whoever sends it, or does not, closes its parts."""

    status: int
    headers: Sequence[Header]
    parts: Parts


async def send_whole(send: ASGISendCallable, response: Response, more: Sequence[Header], *, last: bool) -> None:
    """Send an answer, with `more` headers; the `last` one of its connection says so."""
    fields = [*response.headers, *more]
    if response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        fields.append((b"content-length", str(len(response.body)).encode()))
    if last:
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": fields, "trailers": False})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


async def send_parts(
    send: ASGISendCallable, response: Streamed, more: Sequence[Header], *, head: bool, seconds: float
) -> None:
    """Send an answer in parts, with `more` headers; to `head` the headers are all.

    Raises `CutOff` if the parts do, and if the client takes nothing for so many `seconds`.
    """
    fields = [*response.headers, *more]
    await send({"type": "http.response.start", "status": response.status, "headers": fields, "trailers": False})
    if not head:
        async for part in response.parts:
            try:
                async with asyncio.timeout(seconds):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except TimeoutError:
                raise CutOff from None
    await send({"type": "http.response.body", "body": b"", "more_body": False})
