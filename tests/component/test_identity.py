"""Who is let in at the gRPC edge, and what they are told who are not."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from commerce.order.v1 import order_service_pb2 as order
from commerce.product.v1 import product_service_pb2 as product
from tests.component import edge
from tests.component.support import reason, refusal
from weft import identity
from weft.testing import Issuer, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from weft.grpc_server import GrpcServer


class World:
    """A server that trusts an issuer, and calls to it."""

    def __init__(self, issuer: Issuer, server: GrpcServer, channel: grpc.aio.Channel) -> None:
        self.issuer = issuer
        self.server = server
        self._channel = channel

    async def read(self, authorization: str = "") -> object:
        """Call a public rpc."""
        return await edge.catalogue_at(self._channel).GetProduct(
            product.GetProductRequest(sku="mug"), metadata=_metadata(authorization)
        )

    async def change(self, authorization: str = "") -> object:
        """Call an rpc for admins."""
        return await edge.catalogue_at(self._channel).CreateProduct(
            product.CreateProductRequest(), metadata=_metadata(authorization)
        )

    async def watch(self, authorization: str = "") -> list[str]:
        """Call an rpc, a stream, for whoever has a token; return as whom the servicer knows the caller."""
        call = edge.orders_at(self._channel).WatchOrder(
            order.WatchOrderRequest(order_id="o1"), metadata=_metadata(authorization)
        )
        return [answer.order.user_id async for answer in call]


def _metadata(authorization: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", authorization),) if authorization else ()


async def tell_caller(_request: object, _context: object) -> AsyncIterator[order.WatchOrderResponse]:
    """Answer a watch with who the caller is."""
    yield order.WatchOrderResponse(order=order.Order(user_id=identity.caller().subject))


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


@pytest_asyncio.fixture
async def world(issuer: Issuer) -> AsyncIterator[World]:
    servicers = (edge.Catalogue(), edge.Orders(tell_caller))
    async with (
        edge.serving(*servicers, jwks_url=issuer.jwks_url) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield World(issuer, server, channel)


class Dripping(asyncio.Protocol):
    """Answers whatever it is asked with a space now and then."""

    def __init__(self, open_ones: list[asyncio.WriteTransport]) -> None:
        self._open_ones = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._open_ones.append(transport)
        transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self._drip(transport)

    def _drip(self, transport: asyncio.WriteTransport) -> None:
        if not transport.is_closing():
            transport.write(b" ")
            asyncio.get_running_loop().call_later(0.1, self._drip, transport)


@asynccontextmanager
async def never_ending() -> AsyncIterator[str]:
    """Serve a page that never ends; its URL."""
    open_ones: list[asyncio.WriteTransport] = []
    server = await asyncio.get_running_loop().create_server(lambda: Dripping(open_ones), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for transport in open_ones:
            transport.abort()


async def refused(call: Any) -> tuple[str, str]:
    """Return code and reason of a call's refusal."""
    error = await refusal(call)
    return error.code().name, reason(error)


async def test_anybody_may_call_what_is_public(world: World) -> None:
    await world.read()
    await world.read("Bearer nonsense")


async def test_a_token_tells_who_calls(world: World) -> None:
    assert await world.watch(f"Bearer {world.issuer.token('ann')}") == ["ann"]
    assert await world.watch(f"bearer {world.issuer.token('bob')}") == ["bob"]


async def test_only_admins_may_do_what_is_for_them(world: World) -> None:
    await world.change(f"Bearer {world.issuer.token('ann', 'admin')}")
    for role in ("customer", "", "ADMIN", "root"):
        assert await refused(world.change(f"Bearer {world.issuer.token('ann', role)}")) == (
            "PERMISSION_DENIED",
            "PERMISSION_DENIED",
        )


async def test_without_a_token_one_is_asked_for(world: World) -> None:
    for authorization in ("", "Bearer ", "Basic YW5uOnB3", "Bearer"):
        assert await refused(world.watch(authorization)) == ("UNAUTHENTICATED", "TOKEN_MISSING")
        assert await refused(world.change(authorization)) == ("UNAUTHENTICATED", "TOKEN_MISSING")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "somebody else"},
        {"aud": "another system"},
        {"aud": None},
        {"exp": None},
        {"sub": None},
        {"sub": "no.dots"},
        {"sub": "*"},
        {"nbf": time.time() + 3600},
    ],
)
async def test_a_token_that_is_not_for_here_is_refused(world: World, claims: dict[str, Any]) -> None:
    token = world.issuer.token("ann", **claims)
    assert await refused(world.watch(f"Bearer {token}")) == ("UNAUTHENTICATED", "TOKEN_INVALID")


async def test_a_fresh_token_holds_where_the_clock_is_behind(world: World) -> None:
    assert await world.watch(f"Bearer {world.issuer.token('ann', iat=time.time() + 300)}") == ["ann"]


async def test_an_expired_token_is_told_apart(world: World) -> None:
    token = world.issuer.token(lifetime=-60)
    assert await refused(world.watch(f"Bearer {token}")) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")


async def test_a_verified_token_is_refused_once_it_expires(world: World) -> None:
    # Five seconds are granted to clocks that differ.
    authorization = f"Bearer {world.issuer.token(lifetime=-4)}"
    assert await world.watch(authorization) == ["somebody"]

    async def is_refused() -> bool:
        try:
            await world.watch(authorization)
        except grpc.aio.AioRpcError as error:
            return reason(error) == "TOKEN_EXPIRED"
        return False

    await eventually(is_refused, what="the token expires")


async def test_a_forged_token_is_refused(world: World, tmp_path: Path) -> None:
    genuine = world.issuer.token("ann", "admin")
    head, body, signature = genuine.split(".")
    public = world.issuer._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    claims = jwt.decode(genuine, options={"verify_signature": False})
    kid = jwt.get_unverified_header(genuine)["kid"]
    forged = [
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}.",
        f"{head}.{body}",
        "not a token",
        "x" * 5_000,  # gRPC itself begins to refuse at 8 KiB, at random
        jwt.encode(claims, "", algorithm="none", headers={"kid": kid}),
        jwt.encode(claims, public.hex(), algorithm="HS256", headers={"kid": kid}),
        Issuer(tmp_path).token("ann", "admin"),
        jwt.encode(claims, public.hex(), algorithm="HS256"),
    ]
    for token in forged:
        assert await refused(world.change(f"Bearer {token}")) == ("UNAUTHENTICATED", "TOKEN_INVALID"), token


async def test_without_signing_keys_callers_are_told_to_come_back(tmp_path: Path, issuer: Issuer) -> None:
    missing = tmp_path / "jwks.json"
    async with (
        edge.serving(edge.Catalogue(), edge.Orders(tell_caller), jwks_url=missing.as_uri()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        world = World(issuer, server, channel)
        authorization = f"Bearer {issuer.token('ann')}"
        await world.read()
        assert await refused(world.watch(authorization)) == ("UNAVAILABLE", "UNAVAILABLE")
        missing.write_bytes(issuer._file.read_bytes())
        assert await eventually(lambda: world.watch(authorization)) == ["ann"]


async def test_an_issuer_that_never_ends_its_answer_holds_nobody_up(issuer: Issuer) -> None:
    async with (
        never_ending() as url,
        edge.serving(edge.Catalogue(), edge.Orders(tell_caller), jwks_url=url) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        world = World(issuer, server, channel)
        async with asyncio.timeout(15):
            assert await refused(world.watch(f"Bearer {issuer.token()}")) == ("UNAVAILABLE", "UNAVAILABLE")


async def test_the_last_good_keys_count_while_the_issuer_is_away(world: World) -> None:
    await world.watch(f"Bearer {world.issuer.token('ann')}")
    world.issuer._file.unlink()
    assert await world.watch(f"Bearer {world.issuer.token('bob')}") == ["bob"]
    world.issuer._file.write_text("[]")
    assert await world.watch(f"Bearer {world.issuer.token('carl')}") == ["carl"]


async def test_a_new_key_is_fetched_when_a_token_names_it(world: World) -> None:
    before = world.issuer.token("ann")
    await world.watch(f"Bearer {before}")
    world.issuer.rotate()
    after = f"Bearer {world.issuer.token('bob')}"
    assert await eventually(lambda: world.watch(after)) == ["bob"]
    assert await world.watch(f"Bearer {before}") == ["ann"]


async def test_tokens_of_a_withdrawn_key_are_refused_even_if_they_were_verified(world: World) -> None:
    stolen = f"Bearer {world.issuer.token('ann')}"
    await world.watch(stolen)
    world.issuer.rotate(keep=False)
    await eventually(lambda: world.watch(f"Bearer {world.issuer.token('bob')}"))
    assert await refused(world.watch(stolen)) == ("UNAUTHENTICATED", "TOKEN_INVALID")
