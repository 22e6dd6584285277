"""What an operator may set for product."""

from __future__ import annotations

from weft import ServiceSettings


class Settings(ServiceSettings):
    """Product has no settings of its own."""
