"""What an operator may set for all services in one process."""

from __future__ import annotations

from typing import Any

from pydantic import DirectoryPath, Field

from weft import Environment

_URL = "SQLAlchemy URL of this service's own database; empty is an SQLite file in the folder."
_SECRET: dict[str, Any] = {"secret": True}


class Settings(Environment):
    """Where each of the services keeps its data and listens; the rest each reads as if it were alone."""

    data: DirectoryPath = Field(description="Folder of the services' SQLite files, for those without another database.")
    product_database_url: str = Field("", description=_URL, json_schema_extra=_SECRET)
    product_grpc_port: int = Field(50051, ge=1, le=65535, description="Port on which product serves gRPC.")
    product_ops_port: int = Field(0, ge=0, le=65535, description="Port of product's /readyz; 0 takes any.")
    order_database_url: str = Field("", description=_URL, json_schema_extra=_SECRET)
    order_grpc_port: int = Field(50052, ge=0, le=65535, description="Port on which order serves gRPC.")
    order_ops_port: int = Field(0, ge=0, le=65535, description="Port of order's /readyz; 0 takes any.")
    payment_database_url: str = Field("", description=_URL, json_schema_extra=_SECRET)
    payment_grpc_port: int = Field(50053, ge=0, le=65535, description="Port on which payment serves gRPC.")
    payment_ops_port: int = Field(0, ge=0, le=65535, description="Port of payment's /readyz; 0 takes any.")
    inventory_database_url: str = Field("", description=_URL, json_schema_extra=_SECRET)
    inventory_grpc_port: int = Field(50054, ge=0, le=65535, description="Port on which inventory serves gRPC.")
    inventory_ops_port: int = Field(0, ge=0, le=65535, description="Port of inventory's /readyz; 0 takes any.")
    shipping_database_url: str = Field("", description=_URL, json_schema_extra=_SECRET)
    shipping_grpc_port: int = Field(50055, ge=0, le=65535, description="Port on which shipping serves gRPC.")
    shipping_ops_port: int = Field(0, ge=0, le=65535, description="Port of shipping's /readyz; 0 takes any.")
    user_database_url: str = Field("", description=_URL, json_schema_extra=_SECRET)
    user_grpc_port: int = Field(50056, ge=1, le=65535, description="Port on which user serves gRPC.")
    user_ops_port: int = Field(0, ge=0, le=65535, description="Port of user's /readyz and keys; 0 takes any.")
    gateway_descriptors: str = Field("", description="Descriptors of the services; with them, it hosts a gateway.")
    product_address: str = Field("", description="Where order finds product; empty is beside it.")
    user_address: str = Field("", description="Where order finds user; empty is beside it.")

    def of(self, service: str) -> dict[str, Any]:
        """Return the settings of one service that its own class of settings would not find by itself."""
        return {
            "database_url": getattr(self, f"{service}_database_url") or f"sqlite:///{self.data.resolve() / service}.db",
            "instance": f"{service}-1",
            "grpc_port": getattr(self, f"{service}_grpc_port"),
            "ops_port": getattr(self, f"{service}_ops_port"),
        }

    @property
    def where_product_is(self) -> str:
        """The address at which order asks for prices."""
        return self.product_address or f"127.0.0.1:{self.product_grpc_port}"

    @property
    def where_user_is(self) -> str:
        """The address at which order asks for addresses."""
        return self.user_address or f"127.0.0.1:{self.user_grpc_port}"
