"""gzip (RFC 9110, 12.5.3) for answers that are worth it: text, above a kilobyte, to clients that take it."""

from __future__ import annotations

import asyncio
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.http.answers import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uvicorn._types import HTTPScope

_LEAST = 1024
_AT_ONCE = 256 << 10
"""More bytes than that are compressed beside the event loop."""
_LEVEL = 1
_GZIP = 31
_TEXT = (b"application/json", b"application/problem+json", b"application/javascript", b"text/", b"image/svg+xml")


async def compressed(scope: HTTPScope, response: Response) -> Response:
    """Return an answer as this client takes it; one that is small, or no text, costs nothing."""
    if len(response.body) < _LEAST or not _is_text(response.headers):
        return response
    headers = [*response.headers, (b"vary", b"accept-encoding")]
    if not takes_gzip(_accepted(scope["headers"])):
        return response._replace(headers=headers)
    if len(response.body) > _AT_ONCE:
        body = await asyncio.to_thread(_gzip, response.body)
    else:
        body = _gzip(response.body)
    return Response(response.status, [*headers, (b"content-encoding", b"gzip")], body)


def _is_text(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    names = dict(headers)
    return b"content-encoding" not in names and names.get(b"content-type", b"").startswith(_TEXT)


def _accepted(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b",".join([value for name, value in headers if name == b"accept-encoding"])


@lru_cache(256)
def takes_gzip(accepted: bytes) -> bool:
    """Tell whether an Accept-Encoding asks for gzip at least as much as for none; one that is malformed does not."""
    weights: dict[str, float] = {}
    for part in accepted.decode("latin-1").lower().split(","):
        coding, *parameters = (one.strip() for one in part.split(";"))
        try:
            weights[coding] = _weight(parameters)
        except ValueError:
            return False
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    """Read `q=0.5`. Raises `ValueError`."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            weight = float(value)
            if not 0 <= weight <= 1:
                raise ValueError(f"{value!r} is not a weight")
            return weight
    return 1.0


def _gzip(body: bytes) -> bytes:
    packing = zlib.compressobj(_LEVEL, wbits=_GZIP)
    return packing.compress(body) + packing.flush()
