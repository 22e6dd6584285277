"""Schemas of what is not an object of its fields: scalars, and the well-known types of protobuf's JSON mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from gateway.messages.values import is_wrapper

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

    Schema = dict[str, Any]

_F = FieldDescriptor
_NOT_FINITE = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}
_INT32: Schema = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32: Schema = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_INT64: Schema = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_UINT64: Schema = {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}

_SCALARS: dict[int, Schema] = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), _INT32),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), _UINT32),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), _INT64),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), _UINT64),
    _F.TYPE_DOUBLE: {"anyOf": [{"type": "number", "format": "double"}, _NOT_FINITE]},
    _F.TYPE_FLOAT: {"anyOf": [{"type": "number", "format": "float"}, _NOT_FINITE]},
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/_-]*={0,2}$"},
}

_KEYS: dict[int, str] = {
    **dict.fromkeys((_F.CPPTYPE_INT32, _F.CPPTYPE_INT64), "^-?[0-9]+$"),
    **dict.fromkeys((_F.CPPTYPE_UINT32, _F.CPPTYPE_UINT64), "^[0-9]+$"),
    _F.CPPTYPE_BOOL: "^(true|false)$",
}

TIMESTAMP: Schema = {"type": "string", "format": "date-time"}
DURATION: Schema = {
    "type": "string",
    "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$",
    "description": "Seconds, as in `1.5s`.",
}
_PATH = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
FIELD_MASK: Schema = {
    "type": "string",
    "pattern": f"^({_PATH}(,{_PATH})*)?$",
    "description": "The names of fields, with commas between: `a,b.c`.",
}
ANY: Schema = {
    "type": "object",
    "properties": {"@type": {"type": "string", "description": "`type.googleapis.com/` and the full name of its type."}},
    "description": "A message of any type, which `@type` names, with its fields beside.",
}

_IN_TEXT: dict[str, Schema] = {
    "google.protobuf.Timestamp": TIMESTAMP,
    "google.protobuf.Duration": DURATION,
    "google.protobuf.FieldMask": FIELD_MASK,
}
_SPECIAL: dict[str, Schema] = {
    **_IN_TEXT,
    "google.protobuf.Any": ANY,
    "google.protobuf.Struct": {"type": "object", "description": "Any JSON object."},
    "google.protobuf.Value": {"description": "Any JSON value."},
    "google.protobuf.ListValue": {"type": "array", "items": {}, "description": "Any JSON array."},
    "google.protobuf.Empty": {"type": "object", "description": "An object without fields."},
}


def scalar(field: FieldDescriptor) -> Schema:
    """Return the schema of a value of a field that is neither a message nor an enum."""
    return dict(_SCALARS[field.type])


def map_keys(key: FieldDescriptor) -> Schema:
    """Return the keywords for the keys of a map; JSON has them all as text."""
    pattern = _KEYS.get(key.cpp_type)
    return {} if pattern is None else {"propertyNames": {"pattern": pattern}}


def special(message: Descriptor) -> Schema | None:
    """Return the schema of a message that JSON has another form for than its fields; None for others."""
    if is_wrapper(message):
        return nullable(scalar(message.fields_by_name["value"]))
    found = _SPECIAL.get(message.full_name)
    return None if found is None else dict(found)


def in_text(message: Descriptor) -> Schema | None:
    """Return the schema of a message that a path or a query can have; None for others."""
    if is_wrapper(message):
        return scalar(message.fields_by_name["value"])
    found = _IN_TEXT.get(message.full_name)
    return None if found is None else dict(found)


def nullable(schema: Schema) -> Schema:
    """Return a schema that takes null too."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
    return {**schema, "type": [schema["type"], "null"]}
