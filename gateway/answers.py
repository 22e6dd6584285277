"""What goes back to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    Header = tuple[bytes, bytes]

BASE_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
"""Headers of every answer that is JSON."""


class Response(NamedTuple):
    """A whole answer; the length and what the connection needs are added when it is sent."""

    status: int
    headers: Sequence[Header]
    body: bytes
