"""Functions generated as Python source for the messages of one contract: to JSON, and from it.

The least that a hand-written proxy would have: no check of any value, no name but the JSON one, no well-known type but
Timestamp, no map. What they cost is what JSON costs a gateway that does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor

_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_TIMESTAMP = "google.protobuf.Timestamp"


class Generated:
    """The functions of all messages that were asked for."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}

    def writer(self, message: Descriptor) -> Callable[[Any], dict[str, Any]]:
        """Return what makes plain values of a message."""
        made: Callable[[Any], dict[str, Any]] = self._made("write", message, self._write)
        return made

    def reader(self, message: Descriptor) -> Callable[[Any, Any], None]:
        """Return what puts plain values into a message: called with both."""
        made: Callable[[Any, Any], None] = self._made("read", message, self._read)
        return made

    def _made(self, what: str, message: Descriptor, lines: Callable[[Descriptor], Iterator[str]]) -> Any:
        name = _name(what, message)
        if name not in self._functions:
            self._functions[name] = None  # Being made: messages may contain each other.
            exec("\n    ".join(lines(message)), self._functions)
        return self._functions[name]

    def _write(self, message: Descriptor) -> Iterator[str]:
        always = [(field, self._written(field)) for field in message.fields if not field.has_presence]
        yield f"def {_name('write', message)}(m):"
        yield "made = {" + ", ".join(f"{field.json_name!r}: {value}" for field, value in always) + "}"
        for field in message.fields:
            if field.has_presence:
                yield f"if m.HasField({field.name!r}): made[{field.json_name!r}] = {self._written(field)}"
        yield "return made"

    def _written(self, field: FieldDescriptor) -> str:
        value = f"m.{field.name}"
        if field.is_repeated:
            inner = self._value(field, "one")
            return f"{value}[:]" if inner == "one" else f"[{inner} for one in {value}]"
        return self._value(field, value)

    def _value(self, field: FieldDescriptor, value: str) -> str:
        if field.enum_type is not None:
            names = f"names_{field.enum_type.full_name.replace('.', '_')}"
            self._functions[names] = {one.number: one.name for one in field.enum_type.values}
            return f"{names}[{value}]"
        if field.message_type is None:
            return f"str({value})" if field.cpp_type in _LONG else value
        if field.message_type.full_name == _TIMESTAMP:
            return f"{value}.ToJsonString()"
        self.writer(field.message_type)
        return f"{_name('write', field.message_type)}({value})"

    def _read(self, message: Descriptor) -> Iterator[str]:
        yield f"def {_name('read', message)}(v, m):"
        for field in message.fields:
            place, value = f"m.{field.name}", f"v[{field.json_name!r}]"
            if field.message_type is None:
                put = f"{place}.extend({value})" if field.is_repeated else f"{place} = {value}"
            else:
                self.reader(field.message_type)
                read = _name("read", field.message_type)
                each = f"for one in {value}: {read}(one, {place}.add())"
                put = f"\n            {each}" if field.is_repeated else f"{read}({value}, {place})"
            yield f"if {field.json_name!r} in v: {put}" if "\n" not in put else f"if {field.json_name!r} in v:{put}"
        yield "return"


def _name(what: str, message: Descriptor) -> str:
    return f"{what}_{message.full_name.replace('.', '_')}"
