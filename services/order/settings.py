"""What an operator may set for order."""

from __future__ import annotations

from pydantic import Field

from weft import ServiceSettings


class Settings(ServiceSettings):
    """Order's own settings."""

    product_address: str = Field("127.0.0.1:50051", description="Where product serves gRPC: host:port.")
    user_address: str = Field("127.0.0.1:50056", description="Where user serves gRPC: host:port.")
    order_deadline: float = Field(
        30.0, gt=0, description="Seconds that payment, stock and shipment have, from an order's publication."
    )
