"""Single values on their way out: from what a field of a message holds to what JSON has for it."""

from __future__ import annotations

import base64
import math
import struct
from datetime import datetime, timedelta
from operator import methodcaller
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import EnumDescriptor

    Plain = Callable[[Any], Any]
    """Turns a value of a field into what JSON has for it; it may raise `TypeError`, `ValueError` and `DecodeError`."""

_F = FieldDescriptor
_LONG = (_F.CPPTYPE_INT64, _F.CPPTYPE_UINT64)
_SINGLE = struct.Struct("<f")
_EPOCH = datetime(1970, 1, 1)
_SECOND = 1_000_000_000


def plain_of(field: FieldDescriptor) -> Plain | None:
    """Return the converter of a scalar or enum; None if JSON has it as Python does."""
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.cpp_type in _LONG:
        return str
    if field.type == _F.TYPE_DOUBLE:
        return _double
    if field.type == _F.TYPE_FLOAT:
        return _float
    return _base64 if field.type == _F.TYPE_BYTES else None


def _enum(enum: EnumDescriptor) -> Plain:
    if enum.full_name == "google.protobuf.NullValue":
        return lambda _: None
    # Looked up one by one, as of several names of a number `items` gives another one.
    names = _Names({number: enum.values_by_number[number].name for number in enum.values_by_number})
    return names.__getitem__


class _Names(dict[int, Any]):
    """Names of an enum; a number that has none is given as it is."""

    def __missing__(self, number: int) -> int:
        return number


def _double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _float(value: float) -> float | str:
    """Return the shortest number that is `value` again in 32 bits."""
    if not math.isfinite(value):
        return _double(value)
    for digits in (6, 7, 8):
        short = float(f"{value:.{digits}g}")
        if _SINGLE.unpack(_SINGLE.pack(short))[0] == value:
            return short
    return float(f"{value:.9g}")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _struct(message: Any) -> dict[str, Any]:
    return {name: _value(value) for name, value in message.fields.items()}


def _list(message: Any) -> list[Any]:
    return [_value(value) for value in message.values]


def _value(message: Any) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    value = getattr(message, kind)
    if kind == "number_value" and not math.isfinite(value):
        raise ValueError(f"google.protobuf.Value cannot be {value} in JSON")
    if kind == "struct_value":
        return _struct(value)
    return _list(value) if kind == "list_value" else value


def _timestamp(message: Any) -> str:
    """Return a time as RFC 3339 has it, with 0, 3, 6 or 9 digits of a second, like `ToJsonString` but quicker."""
    nanos = message.nanos
    if not 0 <= nanos < _SECOND:
        raise ValueError(f"a Timestamp cannot have {nanos} nanos")
    try:
        time = (_EPOCH + timedelta(0, message.seconds)).isoformat()
    except OverflowError as error:
        raise ValueError("a Timestamp must be within the years 1 to 9999") from error
    if not nanos:
        return f"{time}Z"
    if nanos % 1000:
        return f"{time}.{nanos:09}Z"
    return f"{time}.{nanos // 1000:06}Z" if nanos % 1_000_000 else f"{time}.{nanos // 1_000_000:03}Z"


_by_itself = cast("Plain", methodcaller("ToJsonString"))
SPECIAL: dict[str, Plain] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _by_itself,
    "google.protobuf.FieldMask": _by_itself,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list,
}
"""Converters of messages that JSON has something else for than an object of their fields, without wrappers and Any."""
