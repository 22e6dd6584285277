"""Pages of the gateway's own, at paths that no contract has. Where a route has the path, it is the route's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from gateway.answers import BASE_HEADERS, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from uvicorn._types import HTTPScope

    from gateway.routes import Route

    Page = Callable[[HTTPScope], Awaitable[Response]]
    """Answers GET and HEAD."""


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
    """Return the page that lists the routes."""
    listed = sorted((route.path, route.method, route.rpc) for route in routes)
    shown = [{"method": method, "path": path, "rpc": rpc} for path, method, rpc in listed]
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    body = orjson.dumps({"message": "REST and JSON in front of gRPC services", "routes": shown}, option=option)
    return fixed(Response(200, BASE_HEADERS, body))
