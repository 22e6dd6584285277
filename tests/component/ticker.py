"""A service whose answers are streams and bytes, and a gateway in front of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc

from gateway.contract.descriptors import Contract
from tests.gateway_probe import compiled, fronting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from gateway.gateway import Gateway

    Behaviour = Callable[[Any, Any], AsyncIterator[Any]]

SERVICE = "ticker.v1.Ticker"
PROTO = """
syntax = "proto3";
package ticker.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "weftapi/v1/annotations.proto";

service Ticker {
  rpc Watch(WatchRequest) returns (stream Tick) {
    option (google.api.http) = {
      get: "/v1/ticks/{name}:watch"
      additional_bindings {get: "/v1/ticks/{name}:names" response_body: "name"}
      additional_bindings {post: "/v1/ticks:watch" body: "*"}
    };
  }
  rpc WatchSecretly(SecretRequest) returns (stream Tick) {
    option (google.api.http) = {get: "/v1/secrets:watch"};
  }
  rpc Download(WatchRequest) returns (stream google.api.HttpBody) {
    option (google.api.http) = {get: "/v1/files/{name}:download"};
  }
  rpc Read(WatchRequest) returns (google.api.HttpBody) {
    option (google.api.http) = {get: "/v1/files/{name}"};
  }
  rpc Upload(File) returns (File) {
    option (google.api.http) = {post: "/v1/files/{name}" body: "content" response_body: "content"};
  }
  rpc Store(google.api.HttpBody) returns (google.api.HttpBody) {
    option (google.api.http) = {put: "/v1/files" body: "*"};
  }
  rpc Send(stream Tick) returns (Tick) {
    option (google.api.http) = {post: "/v1/ticks:send" body: "*"};
  }
  rpc Chat(stream Tick) returns (stream Tick) {
    option (google.api.http) = {post: "/v1/ticks:chat" body: "*"};
  }
}
message WatchRequest {
  string name = 1;
  string after = 2 [(weftapi.v1.stream_position) = true];
}
message SecretRequest {string access_token = 1;}
message Tick {
  string name = 1;
  int32 number = 2;
  string position = 3 [(weftapi.v1.stream_position) = true];
}
message File {
  string name = 1;
  google.api.HttpBody content = 2;
}
"""


@cache
def files() -> FileDescriptorSet:
    """Return the descriptors of the service."""
    return compiled(PROTO)


@cache
def contract() -> Contract:
    """Return the contract of the service."""
    return Contract(files())


def message(name: str) -> Any:
    """Return the class of a message: `Tick`, or with its package."""
    full_name = name if "." in name else f"ticker.v1.{name}"
    return contract().class_of(contract().pool.FindMessageTypeByName(full_name))


def tick(number: int, name: str = "a") -> Any:
    """Return a message of the stream, whose position is its number."""
    return message("Tick")(name=name, number=number, position=str(number))


def body(data: bytes, content_type: str = "") -> Any:
    """Return bytes as they are."""
    return message("google.api.HttpBody")(data=data, content_type=content_type)


class Ticker:
    """A plain gRPC server: gives what `behaves` gives, and keeps what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.gives()

    def gives(self, *messages: Any, then: grpc.StatusCode | None = None, told: str = "no more") -> None:
        """Give these messages to every call, and then end, or fail."""

        async def behave(_request: Any, context: Any) -> AsyncIterator[Any]:
            for one in messages:
                yield one
            if then is not None:
                await context.abort(then, told)

        self.behaves(behave)

    def behaves(self, behaviour: Behaviour) -> None:
        """Begin anew, with another behaviour."""
        self.behaviour = behaviour
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.given = 0
        """How many messages were written."""
        self.cancelled = asyncio.Event()
        """Set when a caller went away."""

    def service(self, details: Any) -> Any:
        """Find the method of a call."""
        service, name = details.method[1:].split("/")
        if service not in contract().methods:
            return None
        method = contract().pool.FindServiceByName(service).methods_by_name[name]
        decode = contract().class_of(method.input_type).FromString

        async def stream(request: Any, context: Any) -> Any:
            self.requests.append(request)
            self.metadata = dict(context.invocation_metadata())
            try:
                async for one in self.behaviour(request, context):
                    await context.write(one)
                    self.given += 1
            except (asyncio.CancelledError, grpc.aio.InternalError):  # The latter if that was during a write.
                self.cancelled.set()

        async def answer(request: Any, context: Any) -> Any:
            self.requests.append(request)
            return await anext(self.behaviour(request, context))

        encode = lambda reply: reply.SerializeToString()  # noqa: E731
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
        return grpc.unary_unary_rpc_method_handler(answer, decode, encode)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Ticker]:
        """Serve on a free port."""
        server = grpc.aio.server(handlers=(self,))  # type: ignore[arg-type]
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)


def _written(folder: Path) -> Path:
    path = folder / "ticker.binpb"
    path.write_bytes(files().SerializeToString())
    return path


@asynccontextmanager
async def ticking(ticker: Ticker, **changed: Any) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession]]:
    """Run a gateway in front of it, with a client; `changed` are settings, and `tracing`."""
    with TemporaryDirectory() as folder:
        target = f"127.0.0.1:{ticker.port}"
        settings: dict[str, Any] = {"gateway_descriptors": _written(Path(folder))}
        settings["gateway_backends"] = {SERVICE: target}
        async with (
            fronting(target, **settings, **changed) as gateway,
            aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client,
        ):
            yield gateway, client
