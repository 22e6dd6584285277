"""`/healthz` and `/readyz`: whether the gateway serves, and whether each of the services behind it does.

They are for whoever asks from outside, so they name services and never where one is. Ask `/healthz` whether to start
the gateway anew, and `/readyz` to look at the whole; a load balancer that took it for its own check would take all
gateways out with one service: that one asks the operations port.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import orjson
from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from gateway.http.answers import BASE_HEADERS, Response
from gateway.pages import fixed
from weft.tracing import TraceContext, Tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from uvicorn._types import HTTPScope

    from gateway.backends import Call

_KEPT = 1.0
_PATIENCE = 1.0
_WHOLE_SERVER = HealthCheckRequest().SerializeToString()


class Readiness:
    """Asks the services how they are, all at the same time, and at most once a second whoever asks."""

    def __init__(self, checks: Iterable[tuple[Call, Sequence[str]]], *, lacks: Callable[[], str]) -> None:
        """Each of `checks` is what asks the health of a server, and the names of the services that it has.

        `lacks` says what the gateway itself lacks, if anything.
        """
        self._checks = list(checks)
        self._lacks = lacks
        self._known: dict[str, bool] = {}
        self._until = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def page(self, _: HTTPScope) -> Response:
        """Answer 200 if all services serve, and otherwise 503 with which do not."""
        if time.monotonic() >= self._until:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(), name="readiness")
            await asyncio.shield(self._asking)
        services = {name: "serving" if serves else "not serving" for name, serves in sorted(self._known.items())}
        lacking = self._lacks()
        ready = all(self._known.values()) and not lacking
        told: dict[str, object] = {"status": "ok" if ready else "not ready", "services": services}
        return _page(200 if ready else 503, told | ({"gateway": lacking} if lacking else {}))

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        # In an unsampled trace: probes leave no spans.
        with Tracing.resumed(TraceContext.root()):
            serving = await asyncio.gather(*(_serves(call) for call, _ in self._checks))
        self._known = {name: one for one, (_, names) in zip(serving, self._checks, strict=True) for name in names}
        self._until = time.monotonic() + _KEPT


async def _serves(check: Call) -> bool:
    try:
        answer = await check(_WHOLE_SERVER, timeout=_PATIENCE, metadata=())
        return HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNIMPLEMENTED  # It has no health service: it is there.
    except DecodeError:
        return False


def _page(status: int, said: object) -> Response:
    return Response(status, BASE_HEADERS, orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))


healthz = fixed(_page(200, {"status": "ok"}))
"""The page `/healthz`."""
