"""Lists, page by page: `page_size`, `page_token` and `next_page_token` of the contract's list methods (AIP-158).

A token holds the position of the last row of the page before (a keyset), so that a page costs the same
wherever it is, and rows that come and go meanwhile neither repeat nor hide others. Only the service can make one: it
is signed with a key that all instances have in their database, and is good for the same request alone.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import orjson
from sqlalchemy import select

from weft.domain import InvalidInput, Violation
from weft.tables import secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    Position = tuple[str | int, ...]

Row = TypeVar("Row")

DEFAULT_SIZE = 50
MAX_SIZE = 1000
KEY = "page_tokens"
"""The name of the key among a database's secrets."""

_MAX_TOKEN = 1024
_SIGNATURE = 16
"""Bytes: HMAC-SHA256, cut to what nobody guesses."""


def size_of(page_size: int) -> int:
    """Return how many rows a page has: what the request says, and 50 for 0.

    Raises `InvalidInput`, naming `page_size`, if it is not between 0 and 1000.
    """
    if not 0 <= page_size <= MAX_SIZE:
        allowed = f"must be between 1 and {MAX_SIZE}, or 0 for {DEFAULT_SIZE}"
        raise InvalidInput(Violation("page_size", allowed))
    return page_size or DEFAULT_SIZE


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page is asked for, and of what: all else that the request says, which tokens are bound to."""

    size: int
    token: str
    about: bytes

    @classmethod
    def of(cls, request: Any) -> Self:
        """Read a request with `page_size` or `page_token`. Raises `InvalidInput`, naming `page_size`."""
        about = type(request)()
        about.CopyFrom(request)
        for name in ("page_size", "page_token"):
            if name in about.DESCRIPTOR.fields_by_name:
                about.ClearField(name)
        named = f"{about.DESCRIPTOR.full_name}\0".encode()
        size = size_of(getattr(request, "page_size", 0))
        return cls(size, request.page_token, named + about.SerializeToString(deterministic=True))


def listing(connection: Connection, wanted: PageRequest) -> Listing:
    """Return the list of which a page is wanted, with the key that the service's database has."""
    key = connection.info.get(KEY)
    if key is None:
        query = select(secrets.c.value).where(secrets.c.name == KEY)
        key = connection.info[KEY] = bytes(connection.execute(query).scalar_one())
    return Listing(key, wanted)


class Listing:
    """One list, of which a page is wanted: makes its tokens, and takes back none but those."""

    __slots__ = ("_key", "_wanted", "size")

    def __init__(self, key: bytes, wanted: PageRequest) -> None:
        self.size = wanted.size
        """How many rows the page has."""
        self._key = key
        self._wanted = wanted

    def position(self, *kinds: type[str] | type[int]) -> Position | None:
        """Return the position after which the page begins; None for the first page.

        `kinds` are the types of the position's parts. Raises `InvalidInput`, naming `page_token`, for a token
        that is not as it was made, or was made for another request.
        """
        if not self._wanted.token:
            return None
        parts = self._read(self._wanted.token)
        if len(parts) != len(kinds) or any(type(part) is not kind for part, kind in zip(parts, kinds, strict=True)):
            told = "must be the next_page_token of a request that differs in nothing else, or empty for the first page"
            raise InvalidInput(Violation("page_token", told))
        return tuple(parts)

    def token_of(self, *position: str | int) -> str:
        """Return the token of the page that begins after `position`."""
        written = orjson.dumps(position)
        return _text_of(self._sign(written) + written)

    def cut(self, rows: Sequence[Row], position: Callable[[Row], Position]) -> tuple[Sequence[Row], str]:
        """Return the page and its `next_page_token`, which is empty on the last page.

        `rows` were selected with a limit of `size + 1`: the one too many tells that there are more.
        """
        if len(rows) <= self.size:
            return rows, ""
        page = rows[: self.size]
        return page, self.token_of(*position(page[-1]))

    def _read(self, token: str) -> Sequence[str | int]:
        """Return the position in a token; an empty one if it is none of this list's."""
        if len(token) > _MAX_TOKEN:
            return ()
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (ValueError, binascii.Error):
            return ()
        signature, written = raw[:_SIGNATURE], raw[_SIGNATURE:]
        # Read leniently, base64 has several texts for the same bytes.
        if token != _text_of(raw) or not hmac.compare_digest(signature, self._sign(written)):
            return ()
        parts: list[str | int] = orjson.loads(written)
        return parts

    def _sign(self, written: bytes) -> bytes:
        # Its length first, so that no two pairs are the same bytes.
        signed = len(written).to_bytes(4, "big") + written + self._wanted.about
        return hmac.digest(self._key, signed, "sha256")[:_SIGNATURE]


def _text_of(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
