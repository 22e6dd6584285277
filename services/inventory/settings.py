"""What an operator may set for inventory."""

from __future__ import annotations

from weft import ServiceSettings


class Settings(ServiceSettings):
    """Inventory has no settings of its own."""
