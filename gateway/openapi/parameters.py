"""Parameters of operations: what stands in the path, in the query, and in headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.admission.query_token import is_free
from gateway.messages.values import map_entry
from gateway.openapi.constraints import is_required, limits
from gateway.openapi.wellknown import in_text, scalar, special
from gateway.streaming.positions import position_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    from gateway.openapi.examples import Examples
    from gateway.openapi.paths import Place
    from gateway.openapi.schemas import Schemas

    Parameter = dict[str, Any]

_DEEPEST = 4
"""Names in a query parameter that the document lists; the gateway takes deeper ones too."""

IDEMPOTENCY_KEY: Parameter = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes it safe to repeat the request: the same one with the same key gets the first one's answer, "
    "for 24 hours. A key is the caller's own, a new UUID for instance, and good for one request.",
    "schema": {"type": "string", "pattern": "^[!#-~]{1,255}$"},
}
IF_NONE_MATCH: Parameter = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of the answer that is known already: 304 says that it is still the same.",
    "schema": {"type": "string"},
}
IF_MATCH: Parameter = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that was read before the change: 412 says that it has changed since.",
    "schema": {"type": "string"},
}
_LAST_EVENT_ID: Parameter = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that came: the stream goes on after it. An EventSource sends it itself.",
    "schema": {"type": "string"},
}
_ACCESS_TOKEN: Parameter = {
    "name": "access_token",
    "in": "query",
    "description": "The token, for an EventSource, which cannot send headers (RFC 6750, 2.3).",
    "schema": {"type": "string"},
}


class Parameters:
    """Makes the parameters of operations."""

    def __init__(self, comments: Mapping[str, str], schemas: Schemas, examples: Examples) -> None:
        self._comments = comments
        self._schemas = schemas
        self._examples = examples

    def in_path(self, place: Place, name: str) -> Parameter:
        """Return the parameter `name` for a wildcard of a path."""
        parameter: Parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        if place.field is not None and place.whole:
            comment = self._comments.get(place.field.full_name, "")
            parameter["schema"] = {**self._text(place.field), **limits(place.field, comment)}
            if parameter["schema"].get("type") == "string":
                parameter["schema"].setdefault("minLength", 0 if place.many else 1)
            parameter["example"] = self._examples.of_text(place.field)
        else:
            parameter["example"] = "a"
        if notes := [*self._notes(place)]:
            parameter["description"] = "\n\n".join(notes)
        return parameter

    def _notes(self, place: Place) -> Iterator[str]:
        if place.field is not None:
            if comment := self._comments.get(place.field.full_name, ""):
                yield comment
            if not place.whole:
                yield f"Stands for a wildcard in `{place.pattern}`, which is all of `{place.field.json_name}`."
        if place.many:
            yield "It may have any number of segments, or none: its slashes are sent as they are, and not as `%2F`."

    def in_query(self, request: Descriptor, without: Collection[str]) -> list[Parameter]:
        """Return those for the fields of a request, but for the fields `without`, by their paths in the contract."""
        return list(self._walk(request, (), (), {*without}))

    def _walk(
        self, message: Descriptor, above: tuple[FieldDescriptor, ...], types: tuple[str, ...], without: set[str]
    ) -> Iterator[Parameter]:
        inside = (*types, message.full_name)
        for field in message.fields:
            path = (*above, field)
            if ".".join(one.name for one in path) in without:
                continue
            schema = self._schema(field)
            if schema is not None:
                yield self._parameter(path, schema)
            elif len(path) < _DEEPEST and (held := _entered(field)) is not None and held.full_name not in inside:
                yield from self._walk(held, path, inside, without)

    def _parameter(self, path: tuple[FieldDescriptor, ...], schema: dict[str, Any]) -> Parameter:
        field = path[-1]
        comment = self._comments.get(field.full_name, "")
        parameter: Parameter = {"name": ".".join(one.json_name for one in path), "in": "query"}
        if all(map(is_required, path)):
            parameter["required"] = True
        if comment:
            parameter["description"] = comment
        if field.GetOptions().deprecated:
            parameter["deprecated"] = True
        if schema.get("type") == "object":
            parameter |= {"style": "deepObject", "explode": True}
        return {**parameter, "schema": {**schema, **limits(field, comment)}}

    def _schema(self, field: FieldDescriptor) -> dict[str, Any] | None:
        """Return the schema of a field as a query has it; None for one that a query cannot have as a whole."""
        if (entry := map_entry(field)) is not None:
            value = entry.fields_by_name["value"]
            return None if value.message_type else {"type": "object", "additionalProperties": self._text(value)}
        if field.message_type is not None and in_text(field.message_type) is None:
            return None
        text = self._text(field)
        return {"type": "array", "items": text} if field.is_repeated else text

    def _text(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None:
            return in_text(field.message_type) or {"type": "string"}
        return scalar(field) if field.enum_type is None else self._schemas.enum(field.enum_type)


def _entered(field: FieldDescriptor) -> Descriptor | None:
    """Return the message whose fields a query gives one by one; None if there is none."""
    message = None if field.is_repeated else field.message_type
    return message if message is not None and special(message) is None else None


def for_streams(request: Descriptor, *, guarded: bool) -> Iterator[Parameter]:
    """Give the parameters that a server stream has beside its request's; `guarded` is whether it needs a token."""
    if position_of(request):
        yield _LAST_EVENT_ID
    if guarded and is_free(request):
        yield _ACCESS_TOKEN
