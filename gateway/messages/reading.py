"""From JSON to messages, by protobuf's JSON mapping: readers made once per type.

JSON names and the contract's own are taken; an unknown field or a wrong value is refused, and the fault names the field
by the client's own path.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, message_factory

from gateway.messages.values import (
    MOST_FAULTS,
    Wrong,
    from_json,
    from_text,
    has_special_form,
    is_wrapper,
    map_entry,
    read_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

    Read = Callable[[Any, Any, int], None]
    """Reads a parsed JSON value into a message, at a depth. It raises `Wrong`."""

_DEEPEST = 64
_FREE_FORM = {f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue")}
_ANY = "google.protobuf.Any"


class Reader:
    """Reads the messages of one pool."""

    def __init__(self, pool: DescriptorPool, *, lenient: bool = False) -> None:
        """With `lenient`, fields that are not known are passed over."""
        self._pool = pool
        self._lenient = lenient
        self._readers: dict[str, Read] = {}

    def message(self, descriptor: Descriptor) -> Read:
        """Return the reader of a message, made when it is first asked for."""
        name = descriptor.full_name
        found = self._readers.get(name)
        if found is None:
            # Found again by itself: a message may hold messages of its own type.
            self._readers[name] = lambda value, message, depth: self._readers[name](value, message, depth)
            found = self._readers[name] = self._make_reader(descriptor)
        return found

    def _make_reader(self, descriptor: Descriptor) -> Read:
        if (read := read_message(descriptor)) is not None:
            return lambda value, message, _: read(value, message)
        if is_wrapper(descriptor):
            convert = from_json(descriptor.fields_by_name["value"])
            return lambda value, message, _: setattr(message, "value", convert(value))
        if descriptor.full_name in _FREE_FORM:
            return self._read_free_form
        if descriptor.full_name == _ANY:
            return self._read_any
        return self._read_by_fields(descriptor)

    def _read_free_form(self, value: Any, message: Message, _: int) -> None:
        try:
            json.dumps(value, allow_nan=False)  # 1e999 is infinite, which JSON has no form for on the way out.
            json_format.ParseDict(value, message, descriptor_pool=self._pool, max_recursion_depth=_DEEPEST)
        except (json_format.ParseError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            raise _unreadable(message) from error

    def _read_any(self, value: Any, message: Any, depth: int) -> None:
        _check_object(value, depth)
        if not value:
            return
        url, fields = value.get("@type"), {name: item for name, item in value.items() if name != "@type"}
        try:
            str(url).encode()
            descriptor = self._pool.FindMessageTypeByName(str(url).rpartition("/")[2])
        except (KeyError, UnicodeError) as error:
            raise _unreadable(message) from error
        held = message_factory.GetMessageClass(descriptor)()
        if has_special_form(descriptor):
            self._read_special(descriptor, fields, held, depth + 1)
        else:
            self.message(descriptor)(fields, held, depth + 1)
        message.type_url, message.value = url, held.SerializePartialToString()

    def _read_special(self, descriptor: Descriptor, fields: dict[str, Any], held: Message, depth: int) -> None:
        """Read what an `Any` has beside its type, for a message that is something else than its fields."""
        if (unknown := next((name for name in fields if name != "value"), None)) is not None and not self._lenient:
            raise Wrong((unknown, "is not known here"))
        try:
            self.message(descriptor)(fields.get("value"), held, depth)
        except Wrong as error:
            raise Wrong(*error.below("value")) from error

    def _read_by_fields(self, descriptor: Descriptor) -> Read:
        fields: dict[str, tuple[FieldDescriptor, Read]] = {}
        for field in descriptor.fields:
            pair = field, self.field(field)
            fields[field.name] = fields[field.json_name] = pair
        json_names = {field.json_name for field in descriptor.fields}
        has_oneofs = any(len(oneof.fields) > 1 for oneof in descriptor.oneofs)
        lenient = self._lenient

        def read(value: Any, message: Message, depth: int) -> None:
            _check_object(value, depth)
            faults: list[tuple[str, str]] = []
            for name, item in value.items():
                found = fields.get(name)
                if found is None and lenient:
                    continue
                try:
                    if found is None:
                        raise Wrong(("", "is not known here"))
                    found[1](item, message, depth)
                except Wrong as error:
                    faults += error.below(name)
                    if len(faults) >= MOST_FAULTS:
                        break
            if has_oneofs or not value.keys() <= json_names:
                faults += _said_twice(value, fields)
            if faults:
                raise Wrong(*faults[:MOST_FAULTS])

        return read

    def field(self, field: FieldDescriptor) -> Read:
        """Return what reads a value into this field of a message."""
        name = field.name
        if (entry := map_entry(field)) is not None:
            return self._read_map(name, entry)
        if field.is_repeated:
            return self._read_list(field)
        if field.message_type is not None:
            return self._read_message(name, field.message_type, takes_null=_takes_null(field))
        convert, takes_null = from_json(field), _takes_null(field)

        def read(value: Any, message: Message, _: int) -> None:
            if value is not None or takes_null:
                setattr(message, name, convert(value))

        return read

    def _read_message(self, name: str, descriptor: Descriptor, *, takes_null: bool) -> Read:
        inner = self.message(descriptor)

        def read(value: Any, message: Message, depth: int) -> None:
            if value is not None or takes_null:
                held = getattr(message, name)
                held.SetInParent()
                inner(value, held, depth + 1)

        return read

    def _read_list(self, field: FieldDescriptor) -> Read:
        name = field.name
        inner = None if field.message_type is None else self.message(field.message_type)
        convert = from_json(field)
        takes_null = _takes_null(field)

        def read(value: Any, message: Message, depth: int) -> None:
            if value is None:
                return
            if type(value) is not list:
                raise Wrong(("", "must be an array"))
            items = getattr(message, name)
            faults: list[tuple[str, str]] = []
            for index, item in enumerate(value):
                try:
                    if item is None and not takes_null:
                        raise Wrong(("", "must not be null"))
                    if inner is None:
                        items.append(convert(item))
                    else:
                        inner(item, items.add(), depth + 1)
                except Wrong as error:
                    faults += error.below(f"[{index}]")
                    if len(faults) >= MOST_FAULTS:
                        break
            if faults:
                raise Wrong(*faults)

        return read

    def _read_map(self, name: str, entry: Descriptor) -> Read:
        of_key, of_value = (entry.fields_by_name[part] for part in ("key", "value"))
        convert_key, convert = from_text(of_key), from_json(of_value)
        inner = None if of_value.message_type is None else self.message(of_value.message_type)
        takes_null = _takes_null(of_value)

        def read(value: Any, message: Message, depth: int) -> None:
            if value is None:
                return
            if type(value) is not dict:
                raise Wrong(("", "must be an object"))
            entries = getattr(message, name)
            for key, item in value.items():
                try:
                    if item is None and not takes_null:
                        raise Wrong(("", "must not be null"))
                    if inner is None:
                        entries[convert_key(key)] = convert(item)
                    else:
                        inner(item, entries[convert_key(key)], depth + 1)
                except Wrong as error:
                    raise Wrong(*error.below(f"[{json.dumps(key)}]")) from error

        return read


def _check_object(value: Any, depth: int) -> None:
    if type(value) is not dict:
        raise Wrong(("", "must be an object"))
    if depth > _DEEPEST:
        raise Wrong(("", "is nested too deeply"))


def _unreadable(message: Message) -> Wrong:
    return Wrong(("", f"cannot be read as a {message.DESCRIPTOR.full_name}"))


def _takes_null(field: FieldDescriptor) -> bool:
    """Tell whether null is a value of the field's type, and not the absence of one."""
    type_ = field.message_type or field.enum_type
    return type_ is not None and type_.full_name in ("google.protobuf.Value", "google.protobuf.NullValue")


def _said_twice(value: dict[str, Any], fields: dict[str, tuple[FieldDescriptor, Read]]) -> Iterator[tuple[str, str]]:
    """Tell of fields that are there by both their names, and of a second member of a oneof."""
    seen: dict[str, str] = {}
    for name, item in value.items():
        field = fields[name][0] if name in fields else None
        if field is None:
            continue
        for key in _once(field, item):
            if key in seen:
                yield name, f"must not be there beside {seen[key]}"
            seen[key] = name


def _once(field: FieldDescriptor, item: Any) -> Iterable[str]:
    oneof = field.containing_oneof
    return (field.name,) if oneof is None or item is None else (field.name, f"oneof {oneof.name}")
