"""Examples: values that a schema takes, as plausible as names, comments and types let them be.

What a comment says is there only at times (`Absent for …`, `Empty when …`, `…, if it was`) is not in them, or empty.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from gateway.messages.values import is_wrapper, map_entry
from gateway.openapi.constraints import behaviour, limits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from google.protobuf.descriptor import Descriptor

_DEEPEST = 6
_QUOTED = re.compile(r"(?::|\bas in|\be\.g\.|\blike)\s`([^`\s]+)`")
_AT_TIMES = re.compile(
    r"\b(?:absent|empty) (?:for|if|unless|when|while|without)\b|\bnone if\b|\bonce there is\b|, if it (?:did|is|was)\b",
    re.IGNORECASE,
)
_ID = "018f3c5e-7a4b-7c2d-9e1f-2b3c4d5e6f70"
_TIME = "2026-01-31T12:00:00Z"
_SET_BY_SERVICES = {"create_time", "update_time", "delete_time", "expire_time", "etag", "uid", "revision"}
"""What requests need not have, by the names of AIP-148."""

_SPECIAL: dict[str, Any] = {
    "google.protobuf.Timestamp": _TIME,
    "google.protobuf.Duration": "1.5s",
    "google.protobuf.FieldMask": "",
    "google.protobuf.Any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.5s"},
    "google.protobuf.Struct": {"key": "value"},
    "google.protobuf.Value": "value",
    "google.protobuf.ListValue": ["value"],
    "google.protobuf.Empty": {},
    "google.type.Money": {"currencyCode": "EUR", "units": "12", "nanos": 500_000_000},
    "google.type.PostalAddress": {
        "regionCode": "DE",
        "postalCode": "10115",
        "locality": "Berlin",
        "addressLines": ["Invalidenstrasse 1"],
        "recipients": ["Ann Example"],
    },
    "google.type.Date": {"year": 2026, "month": 1, "day": 31},
    "google.type.LatLng": {"latitude": 52.53, "longitude": 13.38},
}
_NAMED = (
    (re.compile(r"(?:^|_)e?mail(?:_address)?$"), "ann@example.com"),
    (re.compile(r"(?:^|_)(?:id|uuid|uid)$"), _ID),
    (re.compile(r"(?:^|_)page_token$"), ""),
    (re.compile(r"^etag$"), '"5f2b8c1d"'),
    (re.compile(r"(?:^|_)currency(?:_code)?$"), "EUR"),
    (re.compile(r"(?:^|_)(?:region|country)_code$"), "DE"),
    (re.compile(r"(?:^|_)language(?:_code)?$"), "en"),
    (re.compile(r"(?:^|_)(?:uri|url)$"), "https://example.com/"),
    (re.compile(r"(?:^|_)password$"), "correct horse battery staple"),
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
}
_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


class Examples:
    """Makes examples of messages and fields."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments

    def sent(self, message: Descriptor, without: Collection[str] = ()) -> Any:
        """Return an example of a message for a request, but for the fields `without`, by their names."""
        return self._message(message, {*without}, frozenset(), sent=True)

    def answered(self, message: Descriptor) -> Any:
        """Return an example of a message for an answer."""
        return self._message(message, set(), frozenset(), sent=False)

    def of_field(self, field: FieldDescriptor, *, sent: bool) -> Any:
        """Return an example of a field's value."""
        return self._value(field, frozenset(), sent=sent)

    def of_text(self, field: FieldDescriptor) -> Any:
        """Return an example of one value of a field, for a path."""
        return self._single(field, frozenset(), sent=True)

    def _message(self, message: Descriptor, without: set[str], within: frozenset[str], *, sent: bool) -> Any:
        if message.full_name in _SPECIAL:
            return _SPECIAL[message.full_name]
        if is_wrapper(message):
            return self._single(message.fields_by_name["value"], within, sent=sent)
        inside = within | {message.full_name}
        made: dict[str, Any] = {}
        for field in message.fields:
            if field.name in without or _is_second(field) or (sent and _is_set_by_service(field)):
                continue
            if not (_holds(field) & inside or len(inside) > _DEEPEST or self._is_there_at_times(field)):
                made[field.json_name] = self._value(field, inside, sent=sent)
            elif not sent and not field.has_presence:
                made[field.json_name] = _nothing(field)
        return made

    def _is_there_at_times(self, field: FieldDescriptor) -> bool:
        return _AT_TIMES.search(self._comments.get(field.full_name, "")) is not None

    def _value(self, field: FieldDescriptor, within: frozenset[str], *, sent: bool) -> Any:
        if (entry := map_entry(field)) is not None:
            key, value = (entry.fields_by_name[part] for part in ("key", "value"))
            shown = str(self._single(key, within, sent=sent))
            return {shown.lower() if shown == "True" else shown: self._value(value, within, sent=sent)}
        single = self._single(field, within, sent=sent)
        return [single] if field.is_repeated else single

    def _single(self, field: FieldDescriptor, within: frozenset[str], *, sent: bool) -> Any:
        if field.message_type is not None:
            return self._message(field.message_type, set(), within, sent=sent)
        if field.enum_type is not None:
            values = field.enum_type.values
            return None if field.enum_type.full_name == "google.protobuf.NullValue" else values[len(values) > 1].name
        return self._scalar(field)

    def _scalar(self, field: FieldDescriptor) -> Any:
        comment = self._comments.get(field.full_name, "")
        if field.type == FieldDescriptor.TYPE_BYTES:
            return "YWJj"
        if field.type == FieldDescriptor.TYPE_STRING:
            return _text(field.name, comment, limits(field, comment))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return True
        if field.cpp_type not in _INTEGERS:
            return 1.5
        number = max(1, limits(field, comment).get("minimum", 1))
        return str(number) if field.cpp_type in _LONG else number


def _text(name: str, comment: str, limit: dict[str, Any]) -> str:
    if match := _QUOTED.search(comment):
        known = [match[1]]
    else:
        known = [value for pattern, value in _NAMED if pattern.search(name)]
    words = name.replace("_", " ")
    candidates = [*known, words, f"{name}-1", name, "a1", "1"]
    return next((one for one in candidates if _fits(one, limit)), "a" * int(limit.get("minLength", 1)))


def _fits(text: str, limit: dict[str, Any]) -> bool:
    pattern = limit.get("pattern")
    if pattern is not None:
        try:
            if not re.fullmatch(pattern, text):
                return False
        except re.error:
            return False
    return bool(limit.get("minLength", 0) <= len(text) <= limit.get("maxLength", len(text)))


def _nothing(field: FieldDescriptor) -> Any:
    """Return the default value of a field without presence, as answers have it."""
    if map_entry(field) is not None:
        return {}
    if field.is_repeated:
        return []
    if field.enum_type is not None:
        return None if field.enum_type.full_name == "google.protobuf.NullValue" else field.enum_type.values[0].name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return ""
    return str(field.default_value) if field.cpp_type in _LONG else field.default_value


def _is_second(field: FieldDescriptor) -> bool:
    """Tell whether another member of its oneof stands in the example."""
    oneof = field.containing_oneof
    return oneof is not None and oneof.fields[0].name != field.name


def _is_set_by_service(field: FieldDescriptor) -> bool:
    return field.name in _SET_BY_SERVICES or "readOnly" in behaviour(field)


def _holds(field: FieldDescriptor) -> set[str]:
    entry = map_entry(field)
    held = field.message_type if entry is None else entry.fields_by_name["value"].message_type
    return set() if held is None else {held.full_name}
