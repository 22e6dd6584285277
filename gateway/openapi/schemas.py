"""Component schemas: each message and enum that the operations need, once, in protobuf's JSON mapping.

Messages that are only ever sent to a service are closed: the gateway refuses what it does not know. Those that come
back are open, as a contract may grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.messages.values import map_entry
from gateway.openapi.constraints import behaviour, is_required, is_secret, limits
from gateway.openapi.wellknown import map_keys, scalar, special

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor

    Schema = dict[str, Any]

_PLACE = "#/components/schemas/"


class Schemas:
    """The component schemas of one document, made as they are asked for."""

    def __init__(
        self, comments: Mapping[str, str], answered: Collection[str], written: Collection[str], *, lenient: bool
    ) -> None:
        """`lenient` is whether unknown fields pass.

        `answered` are the full names of the messages that come back; `written` those of them that are never sent,
        and have all fields that are without presence.
        """
        self.made: dict[str, Schema] = {}
        """By name, for `components.schemas`."""
        self._comments = comments
        self._answered = answered
        self._written = written
        self._lenient = lenient

    def message(self, message: Descriptor) -> Schema:
        """Return the schema of a message, which is a reference if it is made of fields."""
        if (found := special(message)) is not None:
            return found
        if (name := message.full_name) not in self.made:
            self.made[name] = {}
            self.made[name] |= self.fields_of(message)
        return _reference(name)

    def fields_of(self, message: Descriptor, without: Collection[str] = ()) -> Schema:
        """Return the schema of an object with the fields of a message, but for those `without`, by their names."""
        fields = [field for field in message.fields if field.name not in without]
        schema: Schema = {"type": "object"}
        if comment := self._comments.get(message.full_name):
            schema["description"] = comment
        schema["properties"] = {field.json_name: self.property(field) for field in fields}
        whole = message.full_name in self._written
        if required := [one.json_name for one in fields if is_required(one) or (whole and not one.has_presence)]:
            schema["required"] = required
        if choices := [*filter(None, (_at_most_one(oneof, fields) for oneof in message.oneofs))]:
            schema["allOf"] = choices
        if message.full_name not in self._answered and not self._lenient:
            schema["additionalProperties"] = False
        return schema

    def property(self, field: FieldDescriptor) -> Schema:
        """Return the schema of a field with what its comment says."""
        comment = self._comments.get(field.full_name, "")
        schema = {**self.value(field), **limits(field, comment), **behaviour(field)}
        if is_secret(field) and _holder(field) not in self._answered:
            schema |= {"format": "password", "writeOnly": True}
        if field.GetOptions().deprecated:
            schema["deprecated"] = True
        if notes := [*filter(None, (comment, *_choice(field)))]:
            schema["description"] = "\n\n".join(notes)
        return schema

    def value(self, field: FieldDescriptor) -> Schema:
        """Return the schema of a field's value."""
        if (entry := map_entry(field)) is not None:
            key, value = (entry.fields_by_name[part] for part in ("key", "value"))
            return {"type": "object", **map_keys(key), "additionalProperties": self.value(value)}
        single = self._single(field)
        return {"type": "array", "items": single} if field.is_repeated else single

    def add(self, name: str, schema: Schema) -> Schema:
        """Add a schema under a name of its own, and return the reference to it."""
        self.made[name] = schema
        return _reference(name)

    def _single(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type)
        return scalar(field) if field.enum_type is None else self.enum(field.enum_type)

    def enum(self, enum: EnumDescriptor) -> Schema:
        """Return the schema of an enum, by its names."""
        if enum.full_name == "google.protobuf.NullValue":
            return {"type": "null"}
        if enum.full_name not in self.made:
            comments = [self._comments.get(f"{enum.full_name}.{value.name}", "") for value in enum.values]
            lines = [f"- `{value.name}`: {said}" for value, said in zip(enum.values, comments, strict=True) if said]
            schema: Schema = {"type": "string", "enum": [value.name for value in enum.values]}
            if said := "\n\n".join(filter(None, (self._comments.get(enum.full_name, ""), "\n".join(lines)))):
                schema["description"] = said
            self.made[enum.full_name] = schema
        return _reference(enum.full_name)


def reachable(*messages: Descriptor) -> set[str]:
    """Return the full names of messages and of all that they can hold."""
    found: set[str] = set()
    waiting = [*messages]
    while waiting:
        one = waiting.pop()
        if one.full_name not in found:
            found.add(one.full_name)
            waiting += [field.message_type for field in one.fields if field.message_type is not None]
    return found


def _holder(field: FieldDescriptor) -> str:
    assert field.containing_type is not None
    return field.containing_type.full_name


def _reference(name: str) -> Schema:
    return {"$ref": _PLACE + name}


def _at_most_one(oneof: OneofDescriptor, fields: Collection[FieldDescriptor]) -> Schema:
    members = [{"required": [field.json_name]} for field in oneof.fields if field in fields]
    return {"oneOf": [*members, {"not": {"anyOf": members}}]} if len(members) > 1 else {}


def _choice(field: FieldDescriptor) -> Iterator[str]:
    oneof = field.containing_oneof
    if oneof is not None and len(oneof.fields) > 1:
        names = ", ".join(f"`{one.json_name}`" for one in oneof.fields)
        yield f"At most one of {names} is there."
