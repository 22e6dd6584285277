"""Single values: from JSON, and from the text of a path or query, to what a field of a message takes.

Converters are made once per field. They raise `Wrong`, which says what the value must be; numbers and enums follow
protobuf's JSON mapping (https://protobuf.dev/programming-guides/json).
"""

from __future__ import annotations

import base64
import math
import re
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.descriptor import Descriptor, EnumDescriptor

    Convert = Callable[[Any], Any]

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CAPITAL = re.compile(r"[A-Z]")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_SHOWN = 20
"""How many of an enum's names a message lists."""

_F = FieldDescriptor
_SIGNED_32 = (_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32)
_SIGNED_64 = (_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64)
_UNSIGNED_32 = (_F.TYPE_UINT32, _F.TYPE_FIXED32)
_UNSIGNED_64 = (_F.TYPE_UINT64, _F.TYPE_FIXED64)
_RANGES: dict[int, tuple[int, int]] = {
    **dict.fromkeys(_SIGNED_32, (-(2**31), 2**31 - 1)),
    **dict.fromkeys(_SIGNED_64, (-(2**63), 2**63 - 1)),
    **dict.fromkeys(_UNSIGNED_32, (0, 2**32 - 1)),
    **dict.fromkeys(_UNSIGNED_64, (0, 2**64 - 1)),
}
_WRAPPED = {f"google.protobuf.{name}Value" for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32")} | {
    f"google.protobuf.{name}Value" for name in ("Bool", "String", "Bytes")
}

_SPECIAL = {
    f"google.protobuf.{name}" for name in ("Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
}

MOST_FAULTS = 20
"""How many faults of one request are told: whoever sends thousands is not told of each."""


class Wrong(ValueError):
    """A value, or several, cannot be taken: for each the path of its field, and what it must be."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{path}: {what}" if path else what for path, what in faults))

    def below(self, name: str) -> Iterable[tuple[str, str]]:
        """Give the faults with their paths from a level further up, where they are within `name`."""
        for path, what in self.faults:
            yield f"{name}.{path}" if path and path[0] != "[" else f"{name}{path}", what


def _wrong(what: str) -> Wrong:
    return Wrong(("", what))


def is_wrapper(message: Descriptor) -> bool:
    """Tell whether it is one of google/protobuf/wrappers.proto."""
    return message.full_name in _WRAPPED


def has_special_form(message: Descriptor) -> bool:
    """Tell whether JSON has something else for the message than an object of its fields."""
    return is_wrapper(message) or message.full_name in _SPECIAL


def from_json(field: FieldDescriptor) -> Convert:
    """Return the converter of JSON values, as `json.loads` gives them, for a scalar or enum field."""
    if field.type in _RANGES:
        return partial(_integer, *_RANGES[field.type])
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return _float if field.type == _F.TYPE_FLOAT else _double
    if field.type == _F.TYPE_BOOL:
        return _bool
    if field.type == _F.TYPE_BYTES:
        return _bytes
    if field.enum_type is not None:
        return _enum(field.enum_type)
    return _string


def from_text(field: FieldDescriptor) -> Convert:
    """Return the converter of the text of a path, a query or a map's key for a scalar or enum field."""
    if field.type == _F.TYPE_BOOL:
        return _bool_of_text
    return from_json(field)


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """Return the message with `key` and `value` of which a map is made; None if the field is no map."""
    entry = field.message_type
    return entry if entry is not None and entry.GetOptions().map_entry else None


def read_message(message: Descriptor) -> Callable[[Any, Any], None] | None:
    """Return what reads a string into a Timestamp, a Duration or a FieldMask; None for other messages."""
    return _FROM_STRING.get(message.full_name)


def _integer(least: int, most: int, value: Any) -> int:
    # True is an int in Python.
    if type(value) is int:
        number = value
    elif (isinstance(value, str) and _INTEGER.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        number = int(value)
    else:
        raise _wrong("must be a whole number")
    if not least <= number <= most:
        raise _wrong(f"must be {least} to {most}")
    return number


def _double(value: Any) -> float:
    if isinstance(value, str):
        if value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        if not _NUMBER.fullmatch(value):
            raise _wrong("must be a number")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise _wrong("must not be so large")
    return number


def _float(value: Any) -> float:
    number = _double(value)
    try:
        struct.pack("<f", number)
    except OverflowError as error:
        raise _wrong("must not be so large") from error
    return number


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong("must be true or false")
    return value


def _bool_of_text(value: Any) -> bool:
    if value not in ("true", "false"):
        raise _wrong("must be true or false")
    return bool(value == "true")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _wrong("must not have half a surrogate pair in it") from error
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        text = value.replace("-", "+").replace("_", "/")
        if _BASE64.fullmatch(text) and len(bare := text.rstrip("=")) % 4 != 1:
            return base64.b64decode(bare + "=" * (-len(bare) % 4))
    raise _wrong("must be base64")


def _enum(enum: EnumDescriptor) -> Convert:
    numbers: dict[str | None, int] = {value.name: value.number for value in enum.values}
    names = ", ".join(value.name for value in enum.values[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
    least, most = _RANGES[_F.TYPE_INT32]

    if enum.full_name == "google.protobuf.NullValue":
        numbers[None] = 0

    def convert(value: Any) -> int:
        if (value is None or isinstance(value, str)) and value in numbers:
            return numbers[value]
        try:
            number = _integer(least, most, value)
        except Wrong:
            number = None
        if number is None or (enum.is_closed and number not in enum.values_by_number):
            raise _wrong(f"must be one of {names}")
        return number

    return convert


def _read_by_itself(what: str, value: Any, message: Any) -> None:
    try:
        message.FromJsonString(_string(value))
    except (ValueError, OverflowError) as error:
        raise _wrong(what) from error


def _read_mask(value: Any, message: Any) -> None:
    for path in filter(None, _string(value).split(",")):
        if not _PATH.fullmatch(path):
            raise _wrong("must be the names of fields, with commas between")
        # A name with a capital is a JSON name; others are the same in both, or the contract's own.
        message.paths.append(_CAPITAL.sub(lambda capital: f"_{capital[0].lower()}", path))


_FROM_STRING: dict[str, Callable[[Any, Any], None]] = {
    "google.protobuf.Timestamp": partial(_read_by_itself, "must be a time, as in 2026-01-31T12:00:00Z"),
    "google.protobuf.Duration": partial(_read_by_itself, "must be seconds, as in 1.5s"),
    "google.protobuf.FieldMask": _read_mask,
}
