"""Pages of the gateway's own, at paths that no contract has. Where a route has the path, it is the route's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from gateway.http.answers import BASE_HEADERS, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from uvicorn._types import HTTPScope

    from gateway.routes import Route

    Page = Callable[[HTTPScope], Awaitable[Response]]
    """Answers GET and HEAD."""


_BY_ACCEPT = (b"vary", b"accept")


class Pages:
    """Pages by their paths, as they are written on the wire."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    def find(self, path: str) -> Page | None:
        """Return the page at a path, if there is one."""
        return self._pages.get(path)


def fixed(response: Response) -> Page:
    """Return a page that is always the same."""

    async def page(_: HTTPScope) -> Response:
        return response

    return page


def index(routes: Iterable[Route]) -> Page:
    """Return the page that lists the routes; it sends people, whose browsers ask for HTML, to `/docs`."""
    listed = sorted((route.path, route.method, route.rpc) for route in routes)
    shown = [{"method": method, "path": path, "rpc": rpc} for path, method, rpc in listed]
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    about = {"message": "REST and JSON in front of gRPC services", "docs": "/docs", "openapi": "/openapi.json"}
    listing = Response(200, [*BASE_HEADERS, _BY_ACCEPT], orjson.dumps({**about, "routes": shown}, option=option))
    docs = Response(302, [*BASE_HEADERS, _BY_ACCEPT, (b"location", b"docs")], b"")

    async def page(scope: HTTPScope) -> Response:
        wants_html = any(b"text/html" in value for name, value in scope["headers"] if name == b"accept")
        return docs if wants_html else listing

    return page
