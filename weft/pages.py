"""Lists, page by page: `page_size`, `page_token` and `next_page_token` of the contract's list methods.

A token holds the position of the last row of the page before (a keyset), so that a page costs the same
wherever it is, and rows that come and go meanwhile neither repeat nor hide others. To others it is opaque.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, TypeVar

import orjson

from weft.domain import InvalidInput, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Position = tuple[str | int, ...]

Row = TypeVar("Row")

DEFAULT_SIZE = 50
MAX_SIZE = 1000

_MAX_TOKEN = 1024


def size_of(page_size: int) -> int:
    """Return how many rows a page has: what the request says, and 50 for 0.

    Raises `InvalidInput`, naming `page_size`, if it is not between 0 and 1000.
    """
    if not 0 <= page_size <= MAX_SIZE:
        allowed = f"must be between 1 and {MAX_SIZE}, or 0 for {DEFAULT_SIZE}"
        raise InvalidInput(Violation("page_size", allowed))
    return page_size or DEFAULT_SIZE


def position_of(page_token: str, *kinds: type[str] | type[int]) -> Position | None:
    """Return the position after which the page begins; None for the first page.

    `kinds` are the types of the position's parts. Raises `InvalidInput`, naming `page_token`, for a token
    that was not made for them.
    """
    if not page_token:
        return None
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        parts = orjson.loads(urlsafe_b64decode(padded)) if len(page_token) <= _MAX_TOKEN else None
    except (ValueError, binascii.Error):
        parts = None
    if not isinstance(parts, list) or len(parts) != len(kinds) or not all(map(_fits, parts, kinds)):
        raise InvalidInput(Violation("page_token", "must be a next_page_token of the same list"))
    return tuple(parts)


def token_of(*position: str | int) -> str:
    """Return the token of the page that begins after `position`."""
    return urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")


def cut(rows: Sequence[Row], size: int, position: Callable[[Row], Position]) -> tuple[Sequence[Row], str]:
    """Return a page of `size` rows and its `next_page_token`, which is empty on the last page.

    `rows` were selected with a limit of `size + 1`: the one too many tells that there are more.
    """
    if len(rows) <= size:
        return rows, ""
    page = rows[:size]
    return page, token_of(*position(page[-1]))


def _fits(part: object, kind: type[str] | type[int]) -> bool:
    """Tell whether a database takes it as a value of that kind."""
    if isinstance(part, str):
        return kind is str and "\0" not in part
    return type(part) is int and kind is int and -(2**63) <= part < 2**63
