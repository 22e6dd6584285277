"""A server's contract, asked of the server itself: gRPC reflection, version 1 or else v1alpha, its predecessor."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from weft import CannotStart, logs

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logs.logger("weft.gateway")
_GOOGLES = re.compile(r"google/(api|longrunning|protobuf|rpc|type)/[a-z0-9_]+\.proto")
"""Files that servers may leave out, as everybody has them."""
_VERSIONS = ("v1", "v1alpha")
"""They differ in their package's name alone."""
_NOT_THERE_YET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_ANSWER_SECONDS = 5.0
_PAUSE = 0.2
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
)


@dataclass(frozen=True, slots=True)
class Reflected:
    """What a server says of itself."""

    files: FileDescriptorSet
    """The files of its services, with all that they import."""
    services: Sequence[str]
    """The full names of its services; gRPC's own, such as health, are left out."""


def reflect(target: str, seconds: float) -> Reflected:
    """Ask the server at `target` for its services; wait for it for at most `seconds`, if it is not there yet.

    It blocks: call it before there is an event loop, or in a thread. Raises `CannotStart`.
    """
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        server = _Server(channel, target)
        listed = server.wait(seconds)
        wanted = sorted(name for name in listed if not name.startswith("grpc."))
        found = {name: files for name in wanted if (files := server.files_of(name))}
        if unknown := sorted(set(wanted) - set(found)):
            _log.warning("the server has no descriptors of services that it lists", services=", ".join(unknown))
        if not found:
            raise CannotStart(f"the server at {target} has no service that it could describe; it lists {listed}")
        by_name = {file.name: file for files in found.values() for file in files}
        _add_imports(by_name, server)
    return Reflected(FileDescriptorSet(file=by_name.values()), tuple(found))


def _add_imports(files: dict[str, FileDescriptorProto], server: _Server) -> None:
    """Add what the files import and is not among them."""
    left = list(files.values())
    while left:
        for name in left.pop().dependency:
            if name not in files:
                found = server.file(name) or _known(name)
                if found is None:
                    raise CannotStart(
                        f"the server at {server.target} cannot describe {name}, which its services import: give the "
                        f"gateway their descriptors with --descriptors FILE, as buf build makes it"
                    )
                files[name] = found
                left.append(found)


def _known(name: str) -> FileDescriptorProto | None:
    """Return a file of Google's that this program has too, as google/api/annotations.proto, if it is one of them."""
    if not _GOOGLES.fullmatch(name):
        return None
    try:
        found = import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ImportError:
        return None
    made = FileDescriptorProto()
    found.DESCRIPTOR.CopyToProto(made)
    return made


class _Server:
    """The other side; asked one question at a time."""

    def __init__(self, channel: grpc.Channel, target: str) -> None:
        self.target = target
        self._calls = [
            channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )
            for version in _VERSIONS
        ]

    def wait(self, seconds: float) -> list[str]:
        """Return what services the server lists, once it answers. Raises `CannotStart`."""
        until, told = time.monotonic() + seconds, False
        while True:
            try:
                listed = self._ask(ServerReflectionRequest(list_services=""))
                return [one.name for one in listed.list_services_response.service]
            except grpc.RpcError as error:
                if error.code() not in _NOT_THERE_YET:
                    raise self._cannot_ask(error) from error
                if time.monotonic() > until:
                    raise CannotStart(
                        f"no gRPC server answers at {self.target} ({error.details()}): start it, or mend --reflect"
                    ) from error
            if not told:
                told = True
                _log.warning("waiting for the server", target=self.target, seconds=seconds)
            time.sleep(_PAUSE)

    def files_of(self, service: str) -> Sequence[FileDescriptorProto]:
        """Return the file of a service, maybe with others; nothing if the server does not know it."""
        return self._files(ServerReflectionRequest(file_containing_symbol=service))

    def file(self, name: str) -> FileDescriptorProto | None:
        """Return the file of a name; None if the server does not know it."""
        files = self._files(ServerReflectionRequest(file_by_filename=name))
        return next((file for file in files if file.name == name), None)

    def _files(self, question: ServerReflectionRequest) -> Sequence[FileDescriptorProto]:
        try:
            answer = self._ask(question)
        except grpc.RpcError as error:
            raise self._cannot_ask(error) from error
        return [FileDescriptorProto.FromString(one) for one in answer.file_descriptor_response.file_descriptor_proto]

    def _ask(self, question: ServerReflectionRequest) -> ServerReflectionResponse:
        while True:
            try:
                answers = self._calls[0](iter([question]), timeout=_ANSWER_SECONDS)
                return next(iter(answers), ServerReflectionResponse())
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED or len(self._calls) == 1:
                    raise
            del self._calls[0]

    def _cannot_ask(self, error: grpc.RpcError) -> CannotStart:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return CannotStart(
                f"the server at {self.target} has no gRPC reflection: turn it on there, or give the gateway the "
                f"descriptors of the services with --descriptors FILE and where they are with --backend"
            )
        return CannotStart(
            f"the server at {self.target} does not describe itself ({error.code().name}: {error.details()}): give the "
            f"gateway the descriptors of the services with --descriptors FILE and where they are with --backend"
        )
