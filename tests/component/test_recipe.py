"""docs/extending.md: the service that it writes out works as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.api.annotations_pb2
import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from commerce.order.v1.order_events_pb2 import OrderCreated
from tests.component.callers import bearer, signed_channel
from weft.embedded import free_port
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.component.support import Streams

ROOT = Path(__file__).resolve().parents[2]
COMMON_PROTOS = Path(google.api.annotations_pb2.__file__).parents[2]
_FILE = re.compile(r"^`([\w/.]+)`\n\n```(?:proto|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SERVICE = "commerce.loyalty.v1.LoyaltyService"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the services and the contract, to which what the page says was done."""
    tree = tmp_path / "tree"
    for folder in ("services", "gen", "proto"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in _FILE.findall((ROOT / "docs/extending.md").read_text()):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    protos = [str(path.relative_to(tree / "proto")) for path in (tree / "proto/commerce/loyalty").rglob("*.proto")]
    generate = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(tree / "proto"), "-I", str(COMMON_PROTOS)]
    outputs = [f"--{kind}={tree / 'gen'}" for kind in ("python_out", "grpc_python_out")]
    described = ["--include_imports", f"--descriptor_set_out={tree / 'loyalty.binpb'}"]
    subprocess.run([*generate, *outputs, *described, *protos], check=True)
    return tree


@pytest.fixture
def address(tree: Path, tmp_path: Path, nats_url: str) -> Iterator[str]:
    """Where the service of that tree serves gRPC."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "gen"), str(ROOT)]),
        "WEFT_DATABASE_URL": f"sqlite:///{tmp_path / 'loyalty.db'}",
        "WEFT_NATS_URL": nats_url,
        "WEFT_GRPC_PORT": str(port),
        "WEFT_DIE_WITH_PARENT": "1",
    }
    service = subprocess.Popen([sys.executable, "-m", "services.loyalty"], cwd=tree, env=environment)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        service.terminate()
        assert service.wait(30) == 0


class Loyalty:
    """A client of the service, from its descriptors."""

    def __init__(self, tree: Path, channel: grpc.aio.Channel) -> None:
        pool = descriptor_pool.DescriptorPool()
        for file in FileDescriptorSet.FromString((tree / "loyalty.binpb").read_bytes()).file:
            pool.Add(file)
        self._methods = pool.FindServiceByName(_SERVICE).methods_by_name
        self._channel = channel

    async def ask(self, method: str, **fields: object) -> Any:
        """Call a method and return its answer."""
        descriptor = self._methods[method]
        request = message_factory.GetMessageClass(descriptor.input_type)(**fields)
        answer = message_factory.GetMessageClass(descriptor.output_type)
        call = self._channel.unary_unary(
            f"/{_SERVICE}/{method}", lambda one: one.SerializeToString(), answer.FromString
        )
        return await call(request, wait_for_ready=True, timeout=20)


async def test_the_service_that_the_page_writes_out_works(tree: Path, address: str, streams: Streams) -> None:
    await asyncio.gather(*(streams.publish(OrderCreated(order_id=name, user_id="ann")) for name in ("one", "two")))
    async with signed_channel(address, bearer("ann", "customer")) as channel:
        loyalty = Loyalty(tree, channel)

        async def balance() -> int:
            return int((await loyalty.ask("GetBalance", user_id="ann")).points)

        async def has_two() -> bool:
            return await balance() == 2

        await eventually(has_two)
        assert (await loyalty.ask("RedeemPoints", user_id="ann", points=2)).points == 0
        with pytest.raises(grpc.aio.AioRpcError, match="there are only 0 points"):
            await loyalty.ask("RedeemPoints", user_id="ann", points=1)
        with pytest.raises(grpc.aio.AioRpcError, match="there is no user"):
            await loyalty.ask("GetBalance", user_id="bob")
