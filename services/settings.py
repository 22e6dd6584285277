"""What an operator may set for all services in one process."""

from __future__ import annotations

from typing import Any

from pydantic import DirectoryPath, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where each of the services keeps its data and listens; the rest each reads as if it were alone.

    Each is read from the environment variable `WEFT_<NAME>`, once, at the start.
    """

    model_config = SettingsConfigDict(env_prefix="WEFT_", frozen=True, extra="ignore")

    data: DirectoryPath = Field(description="Folder of the services' SQLite files, one each.")
    product_grpc_port: int = Field(50051, ge=1, le=65535, description="Port on which product serves gRPC.")
    product_ops_port: int = Field(0, ge=0, le=65535, description="Port of product's /readyz; 0 takes any.")
    order_grpc_port: int = Field(50052, ge=0, le=65535, description="Port on which order serves gRPC.")
    order_ops_port: int = Field(0, ge=0, le=65535, description="Port of order's /readyz; 0 takes any.")
    payment_grpc_port: int = Field(50053, ge=0, le=65535, description="Port on which payment serves gRPC.")
    payment_ops_port: int = Field(0, ge=0, le=65535, description="Port of payment's /readyz; 0 takes any.")
    inventory_grpc_port: int = Field(50054, ge=0, le=65535, description="Port on which inventory serves gRPC.")
    inventory_ops_port: int = Field(0, ge=0, le=65535, description="Port of inventory's /readyz; 0 takes any.")
    shipping_grpc_port: int = Field(50055, ge=0, le=65535, description="Port on which shipping serves gRPC.")
    shipping_ops_port: int = Field(0, ge=0, le=65535, description="Port of shipping's /readyz; 0 takes any.")
    product_address: str = Field("", description="Where order finds product; empty is beside it.")

    def of(self, service: str) -> dict[str, Any]:
        """Return the settings of one service that its own class of settings would not find by itself."""
        return {
            "database_url": f"sqlite:///{self.data.resolve() / service}.db",
            "instance": f"{service}-1",
            "grpc_port": getattr(self, f"{service}_grpc_port"),
            "ops_port": getattr(self, f"{service}_ops_port"),
        }

    @property
    def where_product_is(self) -> str:
        """The address at which order asks for prices."""
        return self.product_address or f"127.0.0.1:{self.product_grpc_port}"
