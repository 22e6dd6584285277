"""A gateway's protection over HTTP: tokens, rates, health, headers for browsers, compression, what passes on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from grpc_health.v1.health import aio as grpc_health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tests.component.callers import bearer, issuer
from tests.gateway_probe import SERVICE, ProbeServer, fronting, message
from weft import CannotStart
from weft.testing import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gateway.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELSEWHERE = "probe.v1.Elsewhere"
THING = "/v1/things/a"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probing() -> AsyncIterator[ProbeServer]:
    async with ProbeServer().serving() as server:
        yield server


@pytest.fixture
def server(probing: ProbeServer) -> ProbeServer:
    probing.forget()
    return probing


class Client:
    """Asks a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}", auto_decompress=False)

    async def get(self, path: str = THING, user: str = "", **headers: str) -> aiohttp.ClientResponse:
        """Ask, as a customer if `user` says which; the body is read."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if user:
            sent["Authorization"] = bearer(user, "customer")
        async with self._session.get(path, headers={"Accept-Encoding": "identity"} | sent) as answer:
            await answer.read()
            return answer

    async def close(self) -> None:
        await self._session.close()


@asynccontextmanager
async def asking(server: ProbeServer, **settings: Any) -> AsyncIterator[Client]:
    """Ask a gateway that verifies tokens."""
    async with fronting(server.address, **{"gateway_auth": True} | settings) as gateway:
        client = Client(gateway)
        try:
            yield client
        finally:
            await client.close()


async def reason(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    """Return status and reason of an error."""
    details = (await answer.json())["details"]
    return answer.status, next(one["reason"] for one in details if one["@type"].endswith("ErrorInfo"))


async def test_what_is_no_good_token_never_reaches_a_service(server: ProbeServer) -> None:
    async with asking(server) as client:
        for sent in ("", "Bearer ", "Basic YTpi", "Bearer x", f"Bearer {issuer().token(lifetime=-60)}"):
            answer = await client.get(Authorization=sent)
            assert answer.status == 401
            challenge = answer.headers["www-authenticate"]
            assert challenge == ('Bearer error="invalid_token"' if sent else "Bearer")
        assert server.requests == []
        assert (await client.get(user="ann")).status == 200
        assert server.metadata["authorization"] == bearer("ann", "customer"), "the service verifies it again"


async def test_errors_of_tokens_are_those_of_the_services(server: ProbeServer) -> None:
    async with asking(server) as client:
        assert await reason(await client.get()) == (401, "TOKEN_MISSING")
        assert await reason(await client.get(Authorization="Bearer x")) == (401, "TOKEN_INVALID")
        expired = f"Bearer {issuer().token(lifetime=-60)}"
        assert await reason(await client.get(Authorization=expired)) == (401, "TOKEN_EXPIRED")


async def test_without_auth_no_token_is_looked_at_and_it_passes_on(server: ProbeServer) -> None:
    async with asking(server, gateway_auth=False, jwks_url="") as client:
        assert (await client.get(Authorization="Bearer x")).status == 200
        assert server.metadata["authorization"] == "Bearer x"


async def test_a_gateway_that_has_no_keys_to_verify_with_does_not_start(server: ProbeServer) -> None:
    with pytest.raises(CannotStart, match=r"set WEFT_JWKS_URL, or --jwks-url: .* --no-auth"):
        async with asking(server, jwks_url=""):
            pass


async def test_while_there_are_no_keys_callers_are_asked_to_come_again(server: ProbeServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    async with asking(server, jwks_url=keys.as_uri()) as client:
        answer = await client.get(user="ann")
        assert (await reason(answer), answer.headers["retry-after"]) == ((503, "UNAVAILABLE"), "1")
        ready = await client.get("/readyz")
        assert (ready.status, (await ready.json())["gateway"]) == (503, "no signing keys yet")
        keys.write_bytes(issuer()._file.read_bytes())

        async def is_served() -> bool:
            return (await client.get(user="ann")).status == 200

        await eventually(is_served)


async def test_a_user_may_ask_only_so_often_and_others_are_not_held_up(server: ProbeServer) -> None:
    async with asking(server, gateway_rate_per_user=0.01, gateway_burst_per_user=2) as client:
        first = await client.get(user="ann")
        assert first.headers["ratelimit-policy"] == '"address";q=1000;w=5, "user";q=2;w=200'
        assert first.headers["ratelimit"].endswith('"user";r=1;t=100')
        assert (await client.get(user="ann")).status == 200
        refused = await client.get(user="ann")
        assert await reason(refused) == (429, "RATE_LIMITED")
        assert 90 < int(refused.headers["retry-after"]) <= 100
        assert refused.headers["ratelimit"].endswith(f'"user";r=0;t={refused.headers["retry-after"]}')
        assert len(server.requests) == 2
        assert (await client.get(user="bob")).status == 200


async def test_an_address_may_ask_only_so_often_whoever_it_says_to_be(server: ProbeServer) -> None:
    limits: Mapping[str, Any] = {"gateway_rate_per_address": 0.01, "gateway_burst_per_address": 4}
    async with asking(server, **limits, gateway_trusted_proxies="127.0.0.1") as client:
        statuses = [
            (await client.get(Authorization="Bearer guess")).status,
            (await client.get()).status,
            (await client.get(user="ann")).status,
            (await client.get("/v1/things?nope=1", user="bob")).status,
            (await client.get(user="ann")).status,
            (await client.get(Authorization="Bearer guess")).status,
        ]
        assert statuses == [401, 401, 200, 400, 429, 429]
        assert (await client.get(user="ann", X_Forwarded_For="1.1.1.1")).status == 200
        assert (await client.get("/healthz")).status == 200


async def test_each_client_behind_a_proxy_counts_alone_if_the_proxy_is_trusted(server: ProbeServer) -> None:
    limits: Mapping[str, Any] = {"gateway_rate_per_address": 0.01, "gateway_burst_per_address": 1}
    async with asking(server, **limits, gateway_auth=False) as client:
        assert [(await client.get(X_Forwarded_For=f"1.1.1.{n}")).status for n in range(2)] == [200, 429]
    async with asking(server, **limits, gateway_auth=False, gateway_trusted_proxies="127.0.0.0/8") as client:
        assert [(await client.get(X_Forwarded_For=f"1.1.1.{n}")).status for n in (1, 2, 1)] == [200, 200, 429]


async def test_no_limit_says_nothing(server: ProbeServer) -> None:
    none: Mapping[str, Any] = {"gateway_rate_per_address": 0, "gateway_rate_per_user": 0}
    async with asking(server, **none) as client:
        assert not [name for name in (await client.get(user="ann")).headers if "ratelimit" in name.lower()]


@asynccontextmanager
async def with_health(status: int) -> AsyncIterator[tuple[str, grpc_health.HealthServicer]]:
    """Run a server that has only its health, and is as `status` says."""
    server, health = grpc.aio.server(), grpc_health.HealthServicer()
    add_HealthServicer_to_server(health, server)
    await health.set("", status)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", health
    finally:
        await server.stop(0)


async def ready(client: Client) -> tuple[int, Any]:
    answer = await client.get("/readyz")
    assert "127.0.0.1" not in await answer.text()
    return answer.status, (await answer.json())["services"]


async def test_readiness_names_the_services_that_do_not_serve(server: ProbeServer) -> None:
    async with with_health(HealthCheckResponse.NOT_SERVING) as (address, health):
        backends = {SERVICE: server.address, ELSEWHERE: address}
        async with asking(server, gateway_backends=backends) as client:
            assert await ready(client) == (503, {SERVICE: "serving", ELSEWHERE: "not serving"})
            assert (await client.get("/healthz")).status == 200
            assert (await client.get("/readyz")).headers["cache-control"] == "no-store"
            await health.set("", HealthCheckResponse.SERVING)

            async def all_serve() -> bool:
                return await ready(client) == (200, {SERVICE: "serving", ELSEWHERE: "serving"})

            await eventually(all_serve)


async def test_readiness_tells_a_service_that_is_not_there(server: ProbeServer) -> None:
    backends = {SERVICE: server.address, ELSEWHERE: f"127.0.0.1:{free_port()}"}
    async with asking(server, gateway_backends=backends) as client:
        assert await ready(client) == (503, {SERVICE: "serving", ELSEWHERE: "not serving"})


async def test_services_are_asked_once_whoever_wants_to_know(server: ProbeServer) -> None:
    asked = 0
    async with asking(server) as client:
        checks = client.gateway._readiness._checks
        (call, names) = checks[0]

        async def counted(*arguments: Any, **options: Any) -> bytes:
            nonlocal asked
            asked += 1
            return await call(*arguments, **options)

        checks[0] = (counted, names)
        assert (await client.get(user="ann")).status == 200, "there are keys"
        assert {(await one).status for one in [asyncio.ensure_future(client.get("/readyz")) for _ in range(10)]} == {
            200
        }
    assert asked == 1


async def test_every_answer_is_safe_for_a_browser(server: ProbeServer) -> None:
    async with asking(server) as client:
        answers = [
            await client.get(user="ann"),
            await client.get(),
            await client.get("/v2"),
            await client.get("/"),
            await client.get("/readyz"),
            await client.get("/" + "x" * 9000),
        ]
        for answer in answers:
            headers = answer.headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-frame-options"] == "DENY"
            assert headers["content-security-policy"] == "frame-ancestors 'none'"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "strict-transport-security" not in headers
        assert [answer.status for answer in answers] == [200, 401, 404, 200, 200, 414]


async def test_https_alone_and_other_origins_are_up_to_the_settings(server: ProbeServer) -> None:
    origin = "https://shop.example"
    async with asking(server, gateway_hsts_seconds=3600, gateway_allow_origins=(origin,)) as client:
        answer = await client.get(user="ann", Origin=origin)
        assert answer.headers["strict-transport-security"] == "max-age=3600"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"etag", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id"} <= set(exposed)
        asks = {"Access-Control-Request-Method": "GET", "Origin": origin}
        for name in ("Last-Event-ID", "Idempotency-Key", "If-Match", "If-None-Match"):
            async with client._session.options(THING, headers=asks | {"Access-Control-Request-Headers": name}) as reply:
                assert reply.status == 200, name


async def test_long_answers_are_compressed_for_those_who_take_it(server: ProbeServer) -> None:
    async def answer(_request: Any, _context: Any) -> Any:
        return message("Thing")(id="x" * 2000)

    server.answer = answer
    async with asking(server) as client:
        packed = await client.get(user="ann", Accept_Encoding="gzip, br")
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers.getall("vary") == ["authorization, accept-language", "accept-encoding"]
        assert int(packed.headers["content-length"]) < 300
        plain = await client.get(user="ann")
        assert "content-encoding" not in plain.headers
        assert int(plain.headers["content-length"]) > 2000
    async with asking(server, gateway_gzip=False) as client:
        assert "content-encoding" not in (await client.get(user="ann", Accept_Encoding="gzip")).headers


async def test_listed_headers_pass_on_and_nobody_can_forge_by_them(server: ProbeServer) -> None:
    async with asking(server, gateway_pass_headers=("x-tenant", "x-blob-bin")) as client:
        forged = {"Grpc_Metadata_Authorization": "Bearer x", "Grpc_Metadata_X_Tenant": "other", "X_User_Id": "1"}
        await client.get(user="ann", X_Tenant="mine", X_Blob_Bin="AP8", **forged)
    told = {name: value for name, value in server.metadata.items() if name not in ("user-agent", "traceparent")}
    assert told.pop("x-request-id")
    assert told == {"authorization": bearer("ann", "customer"), "x-tenant": "mine", "x-blob-bin": b"\x00\xff"}


async def test_every_answer_names_its_request_as_the_service_knows_it(server: ProbeServer) -> None:
    async with asking(server) as client:
        answer = await client.get(user="ann")
        assert answer.headers["x-request-id"] == server.metadata["x-request-id"] != ""
        assert (await client.get(user="ann", X_Request_Id="mine")).headers["x-request-id"] == "mine"
        assert server.metadata["x-request-id"] == "mine"
        assert (await client.get(X_Request_Id="mine")).headers["x-request-id"] == "mine", "errors too"


async def test_a_timeout_of_nothing_is_504_and_no_timeout_is_over_the_most(server: ProbeServer) -> None:
    async with asking(server, gateway_max_timeout=5) as client:
        for header in ({"X_Request_Timeout": "0"}, {"Grpc_Timeout": "0m"}):
            assert (await client.get(user="ann", **header)).status == 504
        for header in ({"X_Request_Timeout": "3600"}, {"Grpc_Timeout": "1H"}):
            assert (await client.get(user="ann", **header)).status == 200
            assert 2 < server.seconds < 5.5
