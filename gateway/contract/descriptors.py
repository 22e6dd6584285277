"""The contract that a gateway serves: the services of a FileDescriptorSet, in a pool of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from google.api import annotations_pb2
from google.protobuf import any_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from gateway.contract.comments import comments_of
from weft import CannotStart
from weftapi.v1 import annotations_pb2 as weft_annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from weftapi.v1.annotations_pb2 import Access

_FOR_ERRORS = (error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR)
"""Files that errors need, and that contracts seldom import."""
_OURS = {one.name: one for one in (*_FOR_ERRORS, any_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR)}


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc, and its annotation if it has one."""

    descriptor: MethodDescriptor
    rule: HttpRule | None
    access: Access.ValueType = weft_annotations.ACCESS_UNSPECIFIED
    """Who may call it, as the contract says."""

    @property
    def name(self) -> str:
        """As people write it: `pkg.v1.Service/Method`."""
        return f"{self.descriptor.containing_service.full_name}/{self.descriptor.name}"


class Contract:
    """The services of a FileDescriptorSet, and the classes of their messages."""

    def __init__(self, files: FileDescriptorSet) -> None:
        """Take the files, in any order. Raises `CannotStart` if an import is missing, or they contradict."""
        self.pool = descriptor_pool.DescriptorPool()
        self.methods: dict[str, list[Method]] = {}
        """The methods of each service, by its full name."""
        self.hosted_by: dict[str, str] = {}
        """Of each service that many servers host, the field of its requests that says which."""
        self.comments = comments_of(files.file)
        """What its comments say, by the full names of what they are about."""
        self._add_all(files)
        for file in files.file:
            for service in file.service:
                found = self.pool.FindServiceByName(f"{file.package}.{service.name}".lstrip("."))
                rules = {method.name: method.options for method in service.method}
                self.methods[found.full_name] = [
                    Method(method, _rule_of(rules[method.name]), _access_of(rules[method.name]))
                    for method in found.methods
                ]
                if field := _host_field_of(service.options):
                    self.hosted_by[found.full_name] = field

    @classmethod
    def load(cls, path: Path) -> Contract:
        """Read a file as `buf build` or `protoc --descriptor_set_out` write it. Raises `CannotStart`."""
        try:
            return cls(FileDescriptorSet.FromString(path.read_bytes()))
        except OSError as error:
            raise CannotStart(f"cannot read the descriptors {path}: {error.strerror}") from error
        except DecodeError as error:
            raise CannotStart(f"{path} is not a FileDescriptorSet: make it with buf build") from error

    def service(self, name: str) -> ServiceDescriptor:
        """Return the service of that full name. Raises `KeyError`."""
        found: ServiceDescriptor = self.pool.FindServiceByName(name)
        return found

    def class_of(self, message: Descriptor) -> type[Message]:
        """Return the class of a message of this contract."""
        made: type[Message] = message_factory.GetMessageClass(message)
        return made

    def _add_all(self, files: FileDescriptorSet) -> None:
        mine = {file.name: file for file in files.file}
        added: set[str] = set()
        for name in mine:
            self._add(name, mine, added)
        for known in _FOR_ERRORS:
            if not any(self._has(message.full_name) for message in known.message_types_by_name.values()):
                self._add(known.name, mine, added)

    def _add(self, name: str, mine: Mapping[str, FileDescriptorProto], added: set[str]) -> None:
        if name in added:
            return
        added.add(name)
        file = mine.get(name) or _known(name)
        for dependency in file.dependency:
            self._add(dependency, mine, added)
        try:
            self.pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise CannotStart(f"the descriptors contradict themselves in {name}: {error}") from error

    def _has(self, message: str) -> bool:
        try:
            self.pool.FindMessageTypeByName(message)
        except KeyError:
            return False
        return True


def _known(name: str) -> FileDescriptorProto:
    if name not in _OURS:
        raise CannotStart(f"the descriptors lack {name}: build them with their imports")
    found = FileDescriptorProto()
    _OURS[name].CopyToProto(found)
    return found


def _rule_of(options: Any) -> HttpRule | None:
    extension = annotations_pb2.http
    return options.Extensions[extension] if options.HasExtension(extension) else None


def _access_of(options: Any) -> Access.ValueType:
    return cast("Access.ValueType", options.Extensions[weft_annotations.access])


def _host_field_of(options: Any) -> str:
    return str(options.Extensions[weft_annotations.hosted_by])


def rules_of(method: Method) -> Iterator[HttpRule]:
    """Give the method's annotation and those below it, which make it servable in more ways."""
    if method.rule is not None:
        yield method.rule
        yield from method.rule.additional_bindings
