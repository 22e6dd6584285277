"""What an operator may set for a gateway, from the environment or as options of its command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from gateway.admission.protection import ProtectionSettings

_BETWEEN = re.compile(r"[\s;]+|,\s*(?=[A-Za-z_][\w.]*(?:/[\w.-]+)?=)")
_SERVICE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(/[\w.-]+)?")
_ORIGIN = re.compile(r"\*|https?://[^/\s*]+")


class GatewaySettings(ProtectionSettings):
    """Settings of one gateway."""

    gateway_descriptors: Path | None = Field(
        None, description="File with the FileDescriptorSet of the services, imports included."
    )
    gateway_reflect: str = Field(
        "",
        validate_default=True,
        description="A server, as host:port, that is asked for its services by gRPC reflection, instead of a file.",
    )
    gateway_reflect_seconds: float = Field(
        30.0, ge=0, description="Seconds for which the start waits for that server, if it is not there yet."
    )
    gateway_backends: Annotated[Mapping[str, str], NoDecode] = Field(
        {},
        validate_default=True,
        description="Where each service is, as in pkg.v1.Service=host:port, with spaces, semicolons or commas between; "
        "any gRPC target will do, as in pkg.v1.Service=ipv4:10.0.0.1:50051,10.0.0.2:50051. A service that many host "
        "has a backend for each, as in pkg.v1.Service/name=host:port. Of a server that is asked by reflection all "
        "services are served, if none is named here.",
    )
    gateway_host: str = Field("127.0.0.1", description="Address on which the gateway listens.")
    gateway_port: int = Field(8080, ge=0, le=65535, description="Port on which it listens; 0 takes any free one.")
    gateway_ops_port: int = Field(0, ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 takes any.")
    gateway_allow_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call from a browser (CORS), with spaces or commas between; * is any."
    )

    gateway_omit_defaults: bool = Field(
        default=False, description="Leave fields that have their default value out of answers, as `optional` ones are."
    )
    gateway_lenient: bool = Field(
        default=False, description="Pass over query parameters and JSON fields that are not known; else they get 400."
    )

    gateway_timeout: float = Field(10.0, gt=0, description="Seconds a call may take when the client set no timeout.")
    gateway_max_timeout: float = Field(60.0, gt=0, description="Most seconds that a client may set.")
    gateway_stream_seconds: float = Field(
        3600.0, gt=0, description="Seconds a stream may take when the client set no timeout, and the most it may set."
    )
    gateway_heartbeat_seconds: float = Field(
        15.0, gt=0, description="Seconds of silence after which a stream of server-sent events has a heartbeat."
    )
    gateway_receive_seconds: float = Field(10.0, gt=0, description="Seconds in which a request must have arrived.")
    gateway_idle_seconds: float = Field(75.0, gt=0, description="Seconds that an idle connection is kept open.")
    gateway_max_body_bytes: int = Field(1 << 20, ge=0, description="Most bytes of a request's body.")
    gateway_max_header_bytes: int = Field(16 << 10, ge=256, description="Most bytes of a request's headers.")
    gateway_max_headers: int = Field(100, ge=1, description="Most headers of a request.")
    gateway_max_url_bytes: int = Field(8 << 10, ge=64, description="Most bytes of a request's path and query.")
    gateway_max_calls: int = Field(1000, ge=1, description="Calls at the same time; more are answered with 503.")
    gateway_max_streams: int = Field(
        500, ge=1, description="Streams at the same time, which count among the calls; more are answered with 503."
    )
    gateway_max_streams_per_user: int = Field(
        100, ge=1, description="Streams of one user at the same time, or of one address where no user is known."
    )
    gateway_max_connections: int = Field(4000, ge=1, description="Connections at the same time; more get 503.")
    gateway_max_connections_per_address: int = Field(
        1000, ge=1, description="Connections of one address at the same time, unless it is a trusted proxy's."
    )

    @field_validator("gateway_reflect")
    @classmethod
    def _check_source(cls, value: str, info: ValidationInfo) -> str:
        if bool(value) is (info.data.get("gateway_descriptors") is not None):
            raise ValueError(
                "name the services' descriptors, with --descriptors FILE (WEFT_GATEWAY_DESCRIPTORS), or a server to "
                "ask for them, with --reflect host:port (WEFT_GATEWAY_REFLECT): one of the two"
            )
        if value and ":" not in value:
            raise ValueError(f"must look like host:port, and is {value!r}")
        return value

    @field_validator("gateway_backends", mode="before")
    @classmethod
    def _read_backends(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return value
        parts = _BETWEEN.split(value.strip()) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError("must look like pkg.v1.Service=host:port")
        backends: dict[str, str] = {}
        for service, equals, target in (str(part).partition("=") for part in parts if part):
            if not equals:
                raise ValueError(f"{service!r} must look like pkg.v1.Service=host:port")
            if service in backends:
                raise ValueError(f"{service} is there twice: for several instances, write ipv4:host:port,host:port")
            backends[service] = target
        return backends

    @field_validator("gateway_backends")
    @classmethod
    def _check_backends(cls, value: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        if not value and not info.data.get("gateway_reflect", True):
            raise ValueError("name at least one service, as in pkg.v1.Service=host:port")
        for service, target in value.items():
            if not _SERVICE.fullmatch(service):
                raise ValueError(f"{service!r} is not the full name of a service, as in pkg.v1.Service or .../name")
            if ":" not in target:
                raise ValueError(f"the target of {service} must look like host:port, and is {target!r}")
        return value

    @field_validator("gateway_allow_origins", mode="before")
    @classmethod
    def _read_origins(cls, value: object) -> object:
        return tuple(re.findall(r"[^\s,]+", value)) if isinstance(value, str) else value

    @field_validator("gateway_allow_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} must look like https://shop.example, without a path, or be *")
        return value
