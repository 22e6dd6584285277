"""What an operator may set for shipping."""

from __future__ import annotations

from weft import ServiceSettings


class Settings(ServiceSettings):
    """Shipping has no settings of its own."""
