"""What an operator may set for payment."""

from __future__ import annotations

from pydantic import Field

from weft import ServiceSettings


class Settings(ServiceSettings):
    """Payment's settings beside those of every service."""

    provider_url: str = Field(
        "http://127.0.0.1:8090",
        pattern=r"^https?://[^/\s]+",
        description="Where the payment provider's API is.",
    )
    provider_timeout: float = Field(
        3.0, gt=0, description="Seconds until a call to the provider is given up, to be made again."
    )
