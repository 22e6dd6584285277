from __future__ import annotations
import pytest
from commerce.product.v1 import product_service_pb2 as api
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from services.product.service import build
from services.product.settings import Settings
from tests.component.support import running, calling

async def test_smoke(nats_url, new_database_url, streams):
    settings = Settings(database_url=await new_database_url("product"), nats_url=nats_url)
    async with running(build(settings)) as s, calling(s) as c:
        stub = ProductServiceStub(c)
        r = await stub.CreateProduct(api.CreateProductRequest(product=api.Product(sku="a", title="A", price={"currency_code":"EUR","units":3})))
        print(r)
        from commerce.product.v1.product_events_pb2 import ProductCreated
        await streams.wait_for(ProductCreated, "a")
