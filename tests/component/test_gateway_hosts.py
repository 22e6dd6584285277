"""A service that several servers host: the gateway goes to the one that the request names."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from weft.tracing import Tracing
from weftapi.v1 import operations_service_pb2 as pb
from weftapi.v1.operations_service_pb2_grpc import OperationsServiceServicer, add_OperationsServiceServicer_to_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DESCRIPTORS = Path(__file__).parents[2] / "gen" / "commerce.binpb"
SERVICE = "weftapi.v1.OperationsService"


class Host(OperationsServiceServicer):
    """One of the hosts, which says its name and what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def ListActions(self, request: pb.ListActionsRequest, context: Any) -> pb.ListActionsResponse:
        return pb.ListActionsResponse(actions=[pb.Action(actor=self.name, target=request.service)])

    async def DropLetters(self, request: pb.DropLettersRequest, context: Any) -> pb.DropLettersResponse:
        return pb.DropLettersResponse(letters=[pb.Letter(consumer=self.name, error=request.why)])


@asynccontextmanager
async def hosting(name: str) -> AsyncIterator[str]:
    """Serve on a free port; yield the address."""
    server = grpc.aio.server()
    add_OperationsServiceServicer_to_server(Host(name), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a gateway in front of the hosts `east` and `west-2`."""
    async with AsyncExitStack() as stack:
        names = ("east", "west-2")
        backends = {f"{SERVICE}/{name}": await stack.enter_async_context(hosting(name)) for name in names}
        settings = GatewaySettings(
            gateway_descriptors=DESCRIPTORS,
            gateway_backends=backends,
            gateway_port=0,
            gateway_auth=False,
            drain_seconds=0,
        )
        gateway = Gateway(settings, tracing=Tracing("gateway", environ={}))
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        yield await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}"))


async def test_the_request_says_which_host_answers(client: aiohttp.ClientSession) -> None:
    for name in ("east", "west-2"):
        async with client.get(f"/v1/operations/{name}/actions") as reply:
            (action,) = (await reply.json())["actions"]
            assert (action["actor"], action["target"]) == (name, name)
    async with client.post("/v1/operations/east/letters:drop", json={"why": "old"}) as reply:
        (letter,) = (await reply.json())["letters"]
        assert (letter["consumer"], letter["error"]) == ("east", "old")


@pytest.mark.parametrize(("headers", "known"), [({}, ""), ({"Authorization": "Bearer x"}, ": there are east, west-2")])
async def test_a_host_without_a_backend_is_404_which_tells_callers_with_a_token_which_there_are(
    client: aiohttp.ClientSession, headers: dict[str, str], known: str
) -> None:
    async with client.get("/v1/operations/north/actions", headers=headers) as reply:
        error = await reply.json()
    assert (reply.status, error["code"]) == (404, 5)
    assert error["message"] == f"there is no service 'north'{known}"
    assert error["details"][0]["reason"] == "HOST_NOT_FOUND"


async def test_the_body_cannot_name_another_host_than_the_path(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/operations/east/letters:drop", json={"service": "west-2", "why": "old"}) as reply:
        assert reply.status == 400
