"""What an operator may set for a gateway's safety: tokens, rates, proxies, headers that pass on."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from weft.settings import TokenSettings

_NAME = re.compile(r"[0-9a-z_.-]+")
_PARTS = re.compile(r"[^\s,]+")
_PASS_ANYWAY = frozenset(
    {"authorization", "accept-language", "idempotency-key", "traceparent", "tracestate", "x-request-id"}
)
_OF_THE_CONNECTION = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_OF_OTHERS = ("grpc-", "weft-", ":")
"""How names begin that gRPC, and the services among themselves, have for what they rely on."""


class ProtectionSettings(TokenSettings):
    """Settings by which a gateway protects what is behind it."""

    gateway_auth: bool = Field(
        default=True,
        description="Verify tokens and roles as the contract says (weftapi.v1.access), with the keys at WEFT_JWKS_URL; "
        "false leaves that to the services alone.",
    )
    gateway_rate_per_user: float = Field(
        50.0, ge=0, description="Requests a second that one user may make in the long run; 0 is as many as they like."
    )
    gateway_burst_per_user: int = Field(250, ge=1, description="Requests that one user may make at once.")
    gateway_rate_per_address: float = Field(
        200.0, ge=0, description="The same for one address, IPv6 by its /64, whoever the user is; 0 is no limit."
    )
    gateway_burst_per_address: int = Field(1000, ge=1, description="Requests that one address may make at once.")
    gateway_trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks, as in 10.0.0.0/8, of the proxies whose X-Forwarded-For is believed; "
        "without it everybody behind a proxy counts as one address.",
    )
    gateway_pass_headers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names of further request headers that pass on to the services as metadata."
    )
    gateway_gzip: bool = Field(default=True, description="Compress answers over 1 KiB for clients that take gzip.")
    gateway_hsts_seconds: int = Field(
        0, ge=0, description="Seconds for which browsers are to come by https alone (HSTS); 0 does not say so."
    )

    @field_validator("gateway_trusted_proxies", "gateway_pass_headers", mode="before")
    @classmethod
    def _read_parts(cls, value: object) -> object:
        return tuple(_PARTS.findall(value)) if isinstance(value, str) else value

    @field_validator("gateway_trusted_proxies")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ip_network(one, strict=False)) for one in value)
        except ValueError as error:
            raise ValueError(f"must be addresses or networks, as in 10.0.0.0/8: {error}") from None

    @field_validator("gateway_pass_headers")
    @classmethod
    def _check_headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower() for name in value)
        for name in names:
            if name in _PASS_ANYWAY:
                raise ValueError(f"{name} passes on anyway: leave it out")
            if not _NAME.fullmatch(name) or name in _OF_THE_CONNECTION or name.startswith(_OF_OTHERS):
                raise ValueError(f"{name} cannot pass on: it is not a client's to say, or belongs to the connection")
        return names
