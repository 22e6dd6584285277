"""What a field's comment and options say about its values, as JSON Schema says it.

Comments are read where they follow a custom, and not guessed at: a range after a colon (`How many: 1 to 100`, `The
password: 8 to 128 characters`), a limit (`at most 200 characters`), and a regular expression in backquotes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.api import field_behavior_pb2 as behaviours
from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    Schema = dict[str, Any]

_RANGE = re.compile(r":\s(\d{1,9}) to (\d{1,9})\b( characters)?")
_MOST = re.compile(r"\bat most (\d{1,9})\b( characters)?", re.IGNORECASE)
_ZERO = re.compile(r"\b0 (?:means|for)\b")
_PATTERN = re.compile(r"`(\^?\[[^`]+\](?:\{\d+(?:,\d*)?\}|[*+])\$?)`")
_SECRET = re.compile(r"(?:^|_)(?:password|passphrase|secret|pin)(?:_|$)")
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_DOUBLE,
    FieldDescriptor.CPPTYPE_FLOAT,
}


def limits(field: FieldDescriptor, comment: str) -> Schema:
    """Return the keywords for the range, length or pattern of a field's value that its comment states."""
    if field.is_repeated:
        return _bounds(comment, "minItems", "maxItems", characters=False)
    if field.type == FieldDescriptor.TYPE_STRING:
        found = _bounds(comment, "minLength", "maxLength", characters=True)
        if match := _PATTERN.search(comment):
            found["pattern"] = f"^{match[1].removeprefix('^').removesuffix('$')}$"
        return found
    if field.cpp_type in _NUMBERS and field.enum_type is None:
        return _bounds(comment, "minimum", "maximum", characters=False)
    return {}


def _bounds(comment: str, least: str, most: str, *, characters: bool) -> Schema:
    found: Schema = {}
    if (match := _RANGE.search(comment)) and bool(match[3]) == characters and int(match[1]) <= int(match[2]):
        found = {least: int(match[1]), most: int(match[2])}
    elif (match := _MOST.search(comment)) and bool(match[2]) == characters:
        found = {most: int(match[1])}
    if least in found and _ZERO.search(comment):
        found[least] = 0
    return found


def behaviour(field: FieldDescriptor) -> Schema:
    """Return the keywords for who sets a field: its `google.api.field_behavior` (AIP-203)."""
    said = _said(field)
    if behaviours.OUTPUT_ONLY in said:
        return {"readOnly": True}
    return {"writeOnly": True} if behaviours.INPUT_ONLY in said else {}


def is_required(field: FieldDescriptor) -> bool:
    """Tell whether its `google.api.field_behavior` says that a request must have it; or proto2 does."""
    return behaviours.REQUIRED in _said(field) or field.is_required


def is_secret(field: FieldDescriptor) -> bool:
    """Tell whether a field has a secret that is typed in: it is not to be shown in logs, and is called so."""
    hidden = bool(field.GetOptions().debug_redact) and field.type == FieldDescriptor.TYPE_STRING
    return hidden and _SECRET.search(field.name) is not None


def _said(field: FieldDescriptor) -> list[int]:
    options: Any = field.GetOptions()
    return list(options.Extensions[behaviours.field_behavior])
