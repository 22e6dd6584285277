"""What the chassis lets an operator set, from the environment: one frozen object per service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SecretsSettingsSource, SettingsConfigDict

from weft.secret_files import secrets_folder

if TYPE_CHECKING:
    from pydantic.config import JsonDict
    from pydantic_settings import PydanticBaseSettingsSource

_SECRET: JsonDict = {"secret": True}
"""Marks a setting that may hold a password: rather in a file than in the environment."""


class Environment(BaseSettings):
    """Settings of which each is read once, at the start: from the environment variable `WEFT_<NAME>`, or else from
    the file of that name in a folder of secrets (see `weft.secret_files`).
    """

    model_config = SettingsConfigDict(env_prefix="WEFT_", frozen=True, extra="ignore")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look in files for what neither the caller nor the environment says. Raises `CannotStart`."""
        files = SecretsSettingsSource(settings_cls, secrets_dir=secrets_folder())
        return init_settings, env_settings, files


class ProcessSettings(Environment):
    """Settings that every process has."""

    instance: str = Field("1", min_length=1, description="This instance's name, unique among those of its kind.")
    drain_seconds: float = Field(10.0, ge=0, description="Seconds that accepted work gets to finish on SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto is text on a terminal, else JSON.")
    die_with_parent: bool = Field(False, description="End when the process that started this one ends.")


class TokenSettings(ProcessSettings):
    """Settings of a process that verifies its callers' tokens: services do, and gateways."""

    jwks_url: str = Field(
        "", description="Where the token issuer publishes its keys: http, https or file URL of a JWKS."
    )
    jwks_refresh: float = Field(300.0, gt=0, description="Seconds between two looks at the issuer's keys.")
    token_issuer: str = Field("weft", min_length=1, description="The `iss` that tokens must have.")
    token_audience: str = Field("weft", min_length=1, description="The `aud` that tokens must name.")


class ServiceSettings(TokenSettings):
    """Settings that every service has; a service with more of its own subclasses it."""

    database_url: str = Field(
        description="SQLAlchemy URL of the service's own database: SQLite or PostgreSQL.", json_schema_extra=_SECRET
    )
    nats_url: str = Field(
        "nats://127.0.0.1:4222", description="The NATS server or cluster, comma-separated.", json_schema_extra=_SECRET
    )

    grpc_host: str = Field("127.0.0.1", description="Address on which gRPC listens.")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port on which gRPC listens; 0 takes any free one.")
    ops_port: int = Field(0, ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 takes any.")
    default_deadline: float = Field(10.0, gt=0, description="Seconds a call may take when its caller set no deadline.")

    batch_size: int = Field(500, ge=1, le=1000, description="Most events handled in one transaction.")
    read_threads: int = Field(4, ge=1, description="Threads, each with a database connection, that serve reads.")
    writer_queue: int = Field(1000, ge=1, description="Commands that may wait for the writer; more are UNAVAILABLE.")
    retry_base: float = Field(0.2, gt=0, description="Seconds before the first retry of a parked event; doubles.")
    retry_cap: float = Field(60.0, gt=0, description="Most seconds between two retries.")
    retry_attempts: int = Field(12, ge=1, description="Tries of a parked event before it is a dead letter.")
    intents_at_once: int = Field(64, ge=1, description="Calls to the outside that may run at the same time.")
    lease_seconds: float = Field(5.0, gt=0, description="Silence after which another instance takes over a lease.")
    outbox_retention_hours: float = Field(168.0, gt=0, description="How long published events can be republished.")
    answer_retention_hours: float = Field(24.0, gt=0, description="How long an idempotency key gets the same answer.")

    @field_validator("nats_url")
    @classmethod
    def _check_nats_url(cls, value: str) -> str:
        if not all(map(_is_nats_url, value.split(","))):
            # Without a word of what is wrong, in which there may be a part of a password.
            raise ValueError("must look like nats://host:4222, or several of these with commas between")
        return value


def _is_nats_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
