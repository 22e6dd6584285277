"""`/openapi.json`, and `/docs`: a page that shows it, with Swagger UI out of an installed package.

The package is only looked into: what it would need to run is never imported. The page has a Content-Security-Policy
that lets nothing in but what is served here.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import zlib
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gateway.http.answers import Response
from gateway.http.compression import takes_gzip

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn._types import HTTPScope

    from gateway.http.answers import Header
    from gateway.pages import Page

_PACKAGE = "fastapi-swagger"
_FOLDER = "fastapi_swagger/resources"
_ASSETS = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_GZIP = 31
_FOR_EVER: Header = (b"cache-control", b"public, max-age=31536000, immutable")
_ASK_AGAIN: Header = (b"cache-control", b"no-cache")
_POLICY: Header = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="{place}/favicon-32x32.png">
<link rel="stylesheet" href="{place}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript><p>This page needs scripts. The API is described in <a href="openapi.json">openapi.json</a>.</p></noscript>
<script src="{place}/swagger-ui-bundle.js"></script>
<script src="{start}"></script>
</body>
</html>
"""
_START = b"""\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
});
"""


class Fixed:
    """Something that is always the same: read when it is first asked for, and compressed once."""

    def __init__(self, load: Callable[[], bytes], content_type: bytes, *headers: Header, gzip: bool) -> None:
        """`gzip` is whether it may be compressed at all."""
        self._load = load
        self._headers = [(b"content-type", content_type), *headers]
        self._gzip = gzip and not content_type.startswith(b"image/")
        self._lock = asyncio.Lock()
        self._plain = b""
        self._packed = b""
        self._etag = b""

    async def page(self, scope: HTTPScope) -> Response:
        """Answer with it, or with 304 to whoever has it."""
        async with self._lock:
            if not self._etag:
                await asyncio.to_thread(self._prepare)
        headers = [*self._headers, (b"etag", self._etag), (b"vary", b"accept-encoding")]
        if self._etag in _values(scope, b"if-none-match"):
            return Response(304, headers, b"")
        if self._gzip and takes_gzip(_values(scope, b"accept-encoding")):
            return Response(200, [*headers, (b"content-encoding", b"gzip")], self._packed)
        return Response(200, headers, self._plain)

    def _prepare(self) -> None:
        self._plain = self._load()
        if self._gzip:
            packing = zlib.compressobj(wbits=_GZIP)
            self._packed = packing.compress(self._plain) + packing.flush()
        # Weak, as it is the same for both forms (RFC 9110, 8.8.1).
        self._etag = b'W/"%b"' % _digest(self._plain).encode()


def site(document: dict[str, Any], *, gzip: bool = True) -> dict[str, Page]:
    """Return the pages, by their paths. Raises `PackageNotFoundError` where the package of the assets is missing."""
    package = distribution(_PACKAGE)
    described = orjson.dumps(document)
    place, start = f"docs/{package.version}", f"docs/start-{_digest(_START)}.js"
    title = html.escape(str(document["info"]["title"]))
    page = _PAGE.format(title=title, place=place, start=start).encode()
    made = {
        "/openapi.json": Fixed(lambda: described, b"application/json", _ASK_AGAIN, gzip=gzip),
        "/docs": Fixed(lambda: page, b"text/html; charset=utf-8", _ASK_AGAIN, _POLICY, gzip=gzip),
        f"/{start}": Fixed(lambda: _START, b"text/javascript; charset=utf-8", _FOR_EVER, gzip=gzip),
    }
    for name, content_type in _ASSETS.items():
        path = Path(str(package.locate_file(f"{_FOLDER}/{name}")))
        made[f"/{place}/{name}"] = Fixed(partial(path.read_bytes), content_type, _FOR_EVER, gzip=gzip)
    return {path: one.page for path, one in made.items()}


def _values(scope: HTTPScope, wanted: bytes) -> bytes:
    return b", ".join(value for name, value in scope["headers"] if name == wanted)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
