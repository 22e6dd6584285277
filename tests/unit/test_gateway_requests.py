"""What the headers of a request say: what passes on, which encodings are taken; and which may be named in settings."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.__main__ import options
from gateway.errors import Refusal
from gateway.http.answers import BASE_HEADERS, Response
from gateway.http.compression import compressed, takes_gzip
from gateway.http.requests import Headers
from gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

LEAST: dict[str, Any] = {"gateway_descriptors": "x", "gateway_backends": "a.B=h:1"}
ALSO = {b"x-tenant": "x-tenant", b"x-blob-bin": "x-blob-bin"}


def test_only_what_is_listed_becomes_metadata() -> None:
    sent = [(b"x-tenant", b"t"), (b"x-other", b"o"), (b"grpc-metadata-authorization", b"Bearer x"), (b"cookie", b"c")]
    assert [pair for pair in Headers(sent, ALSO).metadata if pair[0] != "x-request-id"] == [("x-tenant", "t")]
    assert [name for name, _ in Headers(sent).metadata] == ["x-request-id"]


def test_a_listed_header_may_come_more_than_once() -> None:
    metadata = Headers([(b"x-tenant", b"a"), (b"x-tenant", b"b")], ALSO).metadata
    assert [value for name, value in metadata if name == "x-tenant"] == ["a", "b"]


@given(st.binary(max_size=100), st.booleans())
def test_binary_metadata_is_base64_over_http(value: bytes, padded: bool) -> None:
    sent = base64.b64encode(value)
    metadata = dict(Headers([(b"x-blob-bin", sent if padded else sent.rstrip(b"="))], ALSO).metadata)
    assert metadata["x-blob-bin"] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-blob-bin", b"!!"),
        (b"x-blob-bin", b"a"),
        (b"x-tenant", b"\x7f"),
        (b"x-tenant", b"x" * 4097),
        (b"authorization", "Bearer ü".encode()),
        (b"idempotency-key", b"\x01"),
    ],
)
def test_a_header_that_cannot_be_metadata_is_400(name: bytes, value: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        Headers([(name, value)], ALSO)
    assert refused.value.http == 400


def test_a_second_token_is_400_whatever_the_first() -> None:
    with pytest.raises(Refusal, match="authorization must be there once"):
        Headers([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")])


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    first, second = Headers([]), Headers([])
    assert first.request_id
    assert first.request_id != second.request_id
    assert dict(first.metadata)["x-request-id"] == first.request_id
    assert Headers([(b"x-request-id", b"mine")]).request_id == "mine"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 10),
        ([(b"x-request-timeout", b"2.5")], 2.5),
        ([(b"x-request-timeout", b"3600")], 60),
        ([(b"grpc-timeout", b"1H")], 60),
        ([(b"grpc-timeout", b"2S")], 2),
        ([(b"grpc-timeout", b"250m")], 0.25),
        ([(b"grpc-timeout", b"99999999n")], 0.099999999),
        ([(b"grpc-timeout", b"5S"), (b"x-request-timeout", b"2")], 2),
        ([(b"x-request-timeout", b"7"), (b"grpc-timeout", b"5S")], 5),
    ],
)
def test_the_shortest_timeout_holds_and_none_is_over_the_most(
    headers: list[tuple[bytes, bytes]], seconds: float
) -> None:
    assert Headers(headers).timeout(10, 60) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "header",
    [
        (b"x-request-timeout", b"-1"),
        (b"x-request-timeout", b"1e3"),
        (b"x-request-timeout", b"inf"),
        (b"x-request-timeout", b""),
        (b"grpc-timeout", b"5"),
        (b"grpc-timeout", b"5s"),
        (b"grpc-timeout", b"123456789S"),
        (b"grpc-timeout", b"1.5S"),
    ],
)
def test_a_timeout_that_is_none_is_400(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(Refusal, match="must be"):
        Headers([header])


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZip", True),
        (b"x-gzip", True),
        (b"gzip, deflate, br", True),
        (b"br", False),
        (b"*", True),
        (b"*;q=0", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0, *", False),
        (b"gzip; q=0.001", True),
        (b"gzip;q=0.5, identity", False),
        (b"gzip;q=0.5, identity;q=0.5", True),
        (b"identity;q=0, *;q=0.1", True),
        (b"gzip;q=2", False),
        (b"gzip;q=nan", False),
        (b"gzip;q=", False),
        (b"gzip;level=9;q=0.3", True),
    ],
)
def test_gzip_is_for_those_who_ask_for_it(accepted: bytes, taken: bool) -> None:
    assert takes_gzip(accepted) is taken


@given(st.binary(max_size=60))
def test_no_accept_encoding_is_too_strange(accepted: bytes) -> None:
    assert takes_gzip(accepted) in (True, False)


def asking(*accepted: bytes) -> HTTPScope:
    return cast("HTTPScope", {"headers": [(b"accept-encoding", one) for one in accepted]})


@pytest.mark.parametrize("size", [1024, 300_000])
async def test_a_large_text_is_compressed_and_says_what_that_depends_on(size: int) -> None:
    whole = Response(200, BASE_HEADERS, b"x" * size)
    answer = await compressed(asking(b"br", b"gzip"), whole)
    assert dict(answer.headers)[b"content-encoding"] == b"gzip"
    assert dict(answer.headers)[b"vary"] == b"accept-encoding"
    assert zlib.decompress(answer.body, wbits=31) == whole.body
    plain = await compressed(asking(), whole)
    assert (plain.body, dict(plain.headers)[b"vary"]) == (whole.body, b"accept-encoding")


@pytest.mark.parametrize(
    "response",
    [
        Response(200, BASE_HEADERS, b"x" * 1023),
        Response(200, [(b"content-type", b"image/png")], b"x" * 5000),
        Response(200, [*BASE_HEADERS, (b"content-encoding", b"br")], b"x" * 5000),
        Response(204, [], b""),
    ],
)
async def test_what_is_small_or_no_text_stays_as_it_is(response: Response) -> None:
    assert await compressed(asking(b"gzip"), response) is response


@pytest.mark.parametrize(
    "name",
    ["Authorization", "proxy-authorization", "grpc-timeout", "Grpc-Metadata-Authorization", "grpc-trace-bin",
     "weft-correlation-id", "traceparent", "idempotency-key", "content-type", "host", "te", "user-agent", ":authority",
     "x tenant", "x:y", "Überschrift", "connection"],
)  # fmt: skip
def test_names_that_could_forge_something_are_not_passed_on(name: str) -> None:
    with pytest.raises(ValidationError, match=r"cannot pass on|passes on anyway"):
        GatewaySettings(**LEAST, gateway_pass_headers=(name,))


def test_headers_and_proxies_come_from_the_environment_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_GATEWAY_TRUSTED_PROXIES", "10.1.2.3/8, ::1")
    monkeypatch.setenv("WEFT_GATEWAY_PASS_HEADERS", "X-Tenant x-blob-bin")
    settings = GatewaySettings(**LEAST)
    assert settings.gateway_trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert settings.gateway_pass_headers == ("x-tenant", "x-blob-bin")
    line = "--pass-header X-One --pass-header x-two --no-auth --jwks-url file:///keys"
    chosen = GatewaySettings(**LEAST, **options(line.split()))
    assert (chosen.gateway_pass_headers, chosen.gateway_auth) == (("x-one", "x-two"), False)
    assert chosen.jwks_url == "file:///keys"
    with pytest.raises(ValidationError, match="must be addresses or networks"):
        GatewaySettings(**LEAST, gateway_trusted_proxies="10.0.0.0/33")
