"""Who is let in: what is looked at before a request is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uvicorn._types import HTTPScope

    from gateway.answers import Header
    from gateway.requests import Headers
    from gateway.routes import Route


class Admission:
    """Lets requests in, or not."""

    async def admit(self, route: Route, headers: Headers, scope: HTTPScope) -> Sequence[Header]:
        """Return what the answer's headers are to tell besides. Raises `Refusal`."""
        return ()
