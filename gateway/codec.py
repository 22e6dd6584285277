"""Messages from JSON and to JSON, by protobuf's JSON mapping.

In come JSON names and the contract's own; an unknown field, a duplicate key or a wrong value is refused, and the
fault names the field by the client's own path. Out go lowerCamelCase names, and fields with default values too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import orjson
from google.protobuf import json_format

from gateway.values import Wrong, from_json, from_text, is_wrapper, map_entry, read_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

    Read = Callable[[Any, Any, int], None]
    """Reads a value into a message, at a depth."""

_DEEPEST = 64
_MOST_FAULTS = 20
_FREE_FORM = {f"google.protobuf.{name}" for name in ("Any", "Struct", "Value", "ListValue")}


def parse(body: bytes | bytearray) -> Any:
    """Return what a JSON text says. Raises `Wrong` if it is none, or if an object has a key twice."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except Wrong:
        raise
    except UnicodeDecodeError as error:
        raise Wrong(("", "the body is not JSON: it is not UTF-8")) from error
    except json.JSONDecodeError as error:
        raise Wrong(("", f"the body is not JSON: {error}")) from error
    except RecursionError as error:
        raise Wrong(("", "the body is nested too deeply")) from error
    except ValueError as error:  # A number of thousands of digits.
        raise Wrong(("", "the body has a number in it that is too long")) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Wrong((twice, "is there twice in one object"))
    return made


def _refuse_constant(name: str) -> None:
    raise Wrong(("", f"the body is not JSON: write {name} as a string"))


class Codec:
    """Converts the messages of one pool; readers are made once per type."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._readers: dict[str, Read] = {}

    def read(self, value: Any, message: Message) -> None:
        """Read a parsed JSON object into `message`. Raises `Wrong`."""
        self._reader(cast("Descriptor", message.DESCRIPTOR))(value, message, 0)

    def read_field(self, field: FieldDescriptor) -> Callable[[Any, Message], None]:
        """Return what reads a parsed JSON value into that field of a message. It raises `Wrong`."""
        read = self._field(field)
        return lambda value, message: read(value, message, 0)

    def write(self, message: Message) -> bytes:
        """Return `message` as JSON. Raises `TypeError` if it holds an `Any` of a type that nobody knows."""
        return orjson.dumps(self._plain(message))

    def write_field(self, field: FieldDescriptor) -> Callable[[Message], bytes]:
        """Return what gives that field of a message as JSON. It raises as `write` does."""
        name = field.json_name
        if field.message_type is not None and not field.is_repeated:
            return lambda message: orjson.dumps(self._plain(getattr(message, field.name)))
        if field.has_presence:
            return lambda message: orjson.dumps(self._plain(message).get(name))
        return lambda message: orjson.dumps(self._plain(message)[name])

    def _plain(self, message: Message) -> Any:
        return json_format.MessageToDict(message, always_print_fields_with_no_presence=True, descriptor_pool=self._pool)

    def _reader(self, descriptor: Descriptor) -> Read:
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
        return self._read_by_fields(descriptor)

    def _read_free_form(self, value: Any, message: Message, _: int) -> None:
        try:
            json_format.ParseDict(value, message, descriptor_pool=self._pool, max_recursion_depth=_DEEPEST)
        except (json_format.ParseError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise Wrong(("", f"cannot be read as a {message.DESCRIPTOR.full_name}")) from error

    def _read_by_fields(self, descriptor: Descriptor) -> Read:
        fields: dict[str, tuple[FieldDescriptor, Read]] = {}
        for field in descriptor.fields:
            pair = field, self._field(field)
            fields[field.name] = fields[field.json_name] = pair
        json_names = {field.json_name for field in descriptor.fields}
        has_oneofs = any(len(oneof.fields) > 1 for oneof in descriptor.oneofs)

        def read(value: Any, message: Message, depth: int) -> None:
            if type(value) is not dict:
                raise Wrong(("", "must be an object"))
            if depth > _DEEPEST:
                raise Wrong(("", "is nested too deeply"))
            faults: list[tuple[str, str]] = []
            for name, item in value.items():
                found = fields.get(name)
                try:
                    if found is None:
                        raise Wrong(("", "is not known here"))
                    found[1](item, message, depth)
                except Wrong as error:
                    faults += error.below(name)
                    if len(faults) >= _MOST_FAULTS:
                        break
            if has_oneofs or not value.keys() <= json_names:
                faults += _said_twice(value, fields)
            if faults:
                raise Wrong(*faults[:_MOST_FAULTS])

        return read

    def _field(self, field: FieldDescriptor) -> Read:
        """Return what reads a value into this field of a message."""
        name = field.name
        if (entry := map_entry(field)) is not None:
            return self._read_map(name, entry)
        if field.is_repeated:
            return self._read_list(field)
        if field.message_type is not None:
            return self._read_message(name, field.message_type)
        convert = from_json(field)
        null = 0 if field.enum_type is not None and field.enum_type.full_name == "google.protobuf.NullValue" else None

        def read(value: Any, message: Message, _: int) -> None:
            if value is not None:
                setattr(message, name, convert(value))
            elif null is not None:
                setattr(message, name, null)

        return read

    def _read_message(self, name: str, descriptor: Descriptor) -> Read:
        inner, takes_null = self._reader(descriptor), _takes_null(descriptor)

        def read(value: Any, message: Message, depth: int) -> None:
            if value is not None or takes_null:
                held = getattr(message, name)
                held.SetInParent()
                inner(value, held, depth + 1)

        return read

    def _read_list(self, field: FieldDescriptor) -> Read:
        name = field.name
        inner = None if field.message_type is None else self._reader(field.message_type)
        convert = from_json(field)
        takes_null = _takes_null(field.message_type)

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
                    if len(faults) >= _MOST_FAULTS:
                        break
            if faults:
                raise Wrong(*faults)

        return read

    def _read_map(self, name: str, entry: Descriptor) -> Read:
        of_key, of_value = (entry.fields_by_name[part] for part in ("key", "value"))
        convert_key, convert = from_text(of_key), from_json(of_value)
        inner = None if of_value.message_type is None else self._reader(of_value.message_type)
        takes_null = _takes_null(of_value.message_type)

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


def _takes_null(descriptor: Descriptor | None) -> bool:
    """Tell whether null is a value of the type, and not the absence of one."""
    return descriptor is not None and descriptor.full_name == "google.protobuf.Value"


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
