"""What an operator may set for user."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from services.user.keys import Schedule
from weft import ServiceSettings

if TYPE_CHECKING:
    from pydantic import ValidationInfo


class Settings(ServiceSettings):
    """User's settings beside those of every service."""

    admin_file: Path | None = Field(
        None,
        description='JSON file {"email", "password"} of an admin, who is made, or given this password, at the start.',
    )
    token_minutes: float = Field(15.0, gt=0, le=1440, description="Minutes for which an access token is good.")
    session_days: float = Field(30.0, gt=0, le=3650, description="Days after which one has to sign in again.")
    password_hashes_at_once: int = Field(
        2, ge=1, description="Passwords that may be hashed at the same time; each takes 64 MiB for a moment."
    )
    password_hashes_waiting: int = Field(
        100, ge=0, description="Callers that may wait for that; more are RESOURCE_EXHAUSTED."
    )
    key_overlap_minutes: float = Field(
        60.0,
        gt=0,
        description="Minutes for which a signing key is published before its first token and after its last one "
        "has expired; longer than any service's WEFT_JWKS_REFRESH.",
    )
    signing_key_days: float = Field(30.0, gt=0, le=3650, description="Days for which one key signs.")

    @field_validator("key_overlap_minutes")
    @classmethod
    def _check_overlap(cls, value: float, info: ValidationInfo) -> float:
        if value * 60 <= info.data.get("jwks_refresh", 0.0):
            raise ValueError("must be longer than WEFT_JWKS_REFRESH, so that nobody meets a key that is new to them")
        return value

    @property
    def token_lifetime(self) -> timedelta:
        """How long an access token is good for."""
        return timedelta(minutes=self.token_minutes)

    @property
    def session_lifetime(self) -> timedelta:
        """How long a session can be gone on with."""
        return timedelta(days=self.session_days)

    @property
    def key_schedule(self) -> Schedule:
        """When signing keys begin, and are gone."""
        return Schedule(timedelta(days=self.signing_key_days), timedelta(minutes=self.key_overlap_minutes))
