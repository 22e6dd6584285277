"""What the comments of a contract say of its services, methods, messages, fields and enums.

They are there if the descriptors were made with source info, as `buf build` makes them; `protoc` needs to be told, with
`--include_source_info`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.descriptor_pb2 import FileDescriptorProto

_NAMED = {"message_type", "nested_type", "enum_type", "field", "value", "service", "method"}
_FOR_TOOLS = re.compile(r"(?:buf:|@|protolint:|api-linter:|\(--).*")
_SENTENCE = re.compile(r"(.+?)[.!?](?:\s|$)", re.DOTALL)


def comments_of(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """Return the comments by the full names of what they are about; a value of an enum is `pkg.Enum.VALUE`."""
    return {name: text for file in files for name, text in _of_file(file)}


def first_sentence(comment: str) -> str:
    """Return the first sentence of a comment, as plain text on one line and without its full stop."""
    match = _SENTENCE.match(comment)
    return " ".join((match[1] if match else comment).replace("`", "").split())


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        text = _clean(location.leading_comments or location.trailing_comments)
        if text and (name := _name(file, location.path)):
            yield name, text


def _name(file: FileDescriptorProto, path: Sequence[int]) -> str:
    """Return the name of what a path of field numbers and indexes leads to; nothing for what has none."""
    names = [file.package] if file.package else []
    place: Any = file
    if not path or len(path) % 2:
        return ""
    for number, index in zip(path[::2], path[1::2], strict=True):
        field = place.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.name not in _NAMED:
            return ""
        place = getattr(place, field.name)[index]
        names.append(place.name)
    return ".".join(names)


def _clean(text: str) -> str:
    lines = (line.strip() for line in text.strip().splitlines())
    return "\n".join(line for line in lines if not _FOR_TOOLS.fullmatch(line)).strip()
