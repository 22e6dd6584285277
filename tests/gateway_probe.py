"""What the tests of the gateway share: a service with awkward messages, from descriptors made on the spot."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import google.api
import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from gateway.contract.descriptors import Contract
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.message import Message

    Answer = Callable[[Message, Any], Awaitable[Message]]

_CONTRACTS = Path(__file__).parents[1] / "proto"
PROTO = Path(__file__).with_name("gateway_probe.proto")
SERVICE = "probe.v1.Probe"


def compiled(text: str) -> FileDescriptorSet:
    """Compile the text of one .proto file, imports included."""
    googleapis = Path(next(iter(google.api.__path__))).parents[1]
    wellknown = Path(protoc.__file__).with_name("_proto")
    with TemporaryDirectory() as folder:
        source, out = Path(folder, "probe.proto"), Path(folder, "probe.binpb")
        source.write_text(text)
        paths = [f"-I{one}" for one in (folder, googleapis, wellknown, _CONTRACTS)]
        failed = protoc.main(["protoc", *paths, "--include_imports", f"--descriptor_set_out={out}", str(source)])
        assert not failed, f"protoc does not take it; it is told why on {sys.stderr.name}"
        return FileDescriptorSet.FromString(out.read_bytes())


@cache
def probe_files() -> FileDescriptorSet:
    """Return the descriptors of the probe."""
    return compiled(PROTO.read_text())


@cache
def probe() -> Contract:
    """Return the contract of the probe."""
    return Contract(probe_files())


def message(name: str) -> type[Message]:
    """Return the class of a message of the probe: `Thing`."""
    contract = probe()
    return contract.class_of(contract.pool.FindMessageTypeByName(f"probe.v1.{name}"))


def write_descriptors(folder: Path) -> Path:
    """Write the descriptors of the probe into a file in `folder`, and return its path."""
    path = folder / "probe.binpb"
    path.write_bytes(probe_files().SerializeToString())
    return path


@asynccontextmanager
async def fronting(target: str, *, tracing: Tracing | None = None, **changed: Any) -> AsyncIterator[Gateway]:
    """Run a gateway in front of the probe at `target`; `changed` are other settings."""
    with TemporaryDirectory() as folder:
        plain: dict[str, Any] = {
            "gateway_descriptors": write_descriptors(Path(folder)),
            "gateway_backends": {SERVICE: target},
        }
        plain |= {"gateway_port": 0, "drain_seconds": 0, "gateway_auth": False}
        gateway = Gateway(GatewaySettings(**plain | changed), tracing=tracing or Tracing("gateway", environ={}))
        try:
            await gateway.start()
            yield gateway
        finally:
            await gateway.stop()


class ProbeServer:
    """A plain gRPC server of the probe: answers as `answer` says, and keeps what it was sent."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.port = 0
        self.forget(answer)

    def forget(self, answer: Answer | None = None) -> None:
        """Begin anew."""
        self.answer = answer
        self.requests: list[Message] = []
        self.called = ""
        """The last method, as in `/probe.v1.Probe/GetThing`."""
        self.metadata: dict[str, str] = {}
        self.seconds = 0.0
        """How long the last caller said it waits."""

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self.port}"

    @property
    def request(self) -> Message:
        """The last one."""
        return self.requests[-1]

    def service(self, details: Any) -> Any:
        """Find the method of a call; there is no health service, for one."""
        service, name = details.method[1:].split("/")
        if service not in probe().methods:
            return None
        method = probe().pool.FindServiceByName(service).methods_by_name[name]
        reply = probe().class_of(method.output_type)

        async def serve(request: Message, context: Any) -> Message:
            self.requests.append(request)
            self.called = details.method
            self.metadata = dict(context.invocation_metadata())
            self.seconds = context.time_remaining()
            return reply() if self.answer is None else await self.answer(request, context)

        request = probe().class_of(method.input_type)
        return grpc.unary_unary_rpc_method_handler(serve, request.FromString, reply.SerializeToString)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ProbeServer]:
        """Serve on a free port."""
        server = grpc.aio.server(handlers=(self,))  # type: ignore[arg-type]
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)
