"""Operations: one for each way in which one method can be called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.contract.comments import first_sentence
from gateway.http.etags import has_etag, tags_of
from gateway.messages.raw import raw_reply
from gateway.messages.values import has_special_form
from gateway.openapi.constraints import is_required
from gateway.openapi.parameters import IDEMPOTENCY_KEY, IF_MATCH, IF_NONE_MATCH, for_streams
from gateway.openapi.responses import ETAG, errors_of
from gateway.openapi.wellknown import nullable, special
from weftapi.v1 import annotations_pb2 as weft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor

    from gateway.contract.descriptors import Method
    from gateway.openapi.examples import Examples
    from gateway.openapi.parameters import Parameters
    from gateway.openapi.paths import Place
    from gateway.openapi.schemas import Schemas
    from gateway.routing.template import Template

    Schema = dict[str, Any]

_RAW = "google.api.HttpBody"
_JSON = "application/json"
_STREAM_NOTE = (
    "The answer is a stream. With `Accept: text/event-stream` each message is the data of a server-sent event, and an "
    "error in mid-stream is an event `error`; with `application/x-ndjson`, or without an Accept, each is a line, and "
    'an error is the last line, `{"error": ...}`. Errors are a google.rpc.Status. A page that tries it out may '
    "show it only when it has ended."
)


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to call one method."""

    method: Method
    rule: HttpRule
    verb: str
    template: Template
    places: list[Place]
    names: list[str]
    """What the wildcards of its path are called."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What of an operation says how it can end."""

    comment: str
    verb: str
    guarded: bool
    """Whether it needs a token."""
    for_admins: bool
    has_places: bool
    has_body: bool
    streams: bool
    keeps_answer: bool
    etag: bool
    """Whether its answer has an ETag."""
    if_match: bool


class Operations:
    """Makes the operations of one document."""

    def __init__(
        self,
        comments: Mapping[str, str],
        schemas: Schemas,
        examples: Examples,
        parameters: Parameters,
        error: Schema,
        *,
        guarded: bool,
    ) -> None:
        """`error` is the schema of errors; `guarded` is whether the gateway has methods that need a token."""
        self._comments = comments
        self._schemas = schemas
        self._examples = examples
        self._parameters = parameters
        self._error = error
        self._guarded = guarded

    def make(self, binding: Binding, name: str, tag: str) -> Schema:
        """Return the operation; `name` is its operationId, `tag` stands for its service."""
        facts = self._facts(binding)
        operation: Schema = {"operationId": name, "tags": [tag]}
        if facts.comment:
            operation["summary"] = first_sentence(facts.comment)
        if description := _description(facts):
            operation["description"] = description
        if binding.method.descriptor.GetOptions().deprecated:
            operation["deprecated"] = True
        if parameters := self._all_parameters(binding, facts):
            operation["parameters"] = parameters
        if facts.has_body:
            operation["requestBody"] = self._body(binding, name)
        operation["responses"] = self._responses(binding, facts)
        if self._guarded:
            operation["security"] = [{"bearer": ["admin"] if facts.for_admins else []}] if facts.guarded else []
        return operation

    def _facts(self, binding: Binding) -> Facts:
        descriptor, options = binding.method.descriptor, binding.method.descriptor.GetOptions()
        access = options.Extensions[weft.access]
        streams, raw = descriptor.server_streaming, raw_reply(descriptor.output_type, binding.rule.response_body)
        tags = tags_of(binding.verb, binding.template, descriptor.output_type, binding.rule.response_body)
        return Facts(
            comment=self._comments.get(descriptor.full_name, ""),
            verb=binding.verb,
            guarded=self._guarded and access != weft.ACCESS_PUBLIC,
            for_admins=access == weft.ACCESS_ADMIN,
            has_places=bool(binding.places),
            has_body=bool(binding.rule.body),
            streams=streams,
            keeps_answer=bool(options.Extensions[weft.keeps_answer]),
            etag=tags is not None and not streams and raw is None,
            if_match=_is_guarded(binding),
        )

    def _all_parameters(self, binding: Binding, facts: Facts) -> list[Schema]:
        pairs = zip(binding.places, binding.names, strict=True)
        found = [self._parameters.in_path(place, name) for place, name in pairs]
        request = binding.method.descriptor.input_type
        if binding.rule.body != "*":
            taken = {variable.field for variable in binding.template.variables} | {binding.rule.body}
            found += self._parameters.in_query(request, taken)
        if facts.streams and facts.verb == "GET":
            found += for_streams(request, guarded=facts.guarded)
        headers = ((facts.keeps_answer, IDEMPOTENCY_KEY), (facts.etag, IF_NONE_MATCH), (facts.if_match, IF_MATCH))
        return found + [header for is_there, header in headers if is_there]

    def _body(self, binding: Binding, name: str) -> Schema:
        rule, request = binding.rule, binding.method.descriptor.input_type
        field = None if rule.body == "*" else request.fields_by_name[rule.body]
        message = request if field is None else None if field.is_repeated else field.message_type
        if message is None:
            assert field is not None
            return _json(self._schemas.property(field), self._examples.of_field(field, sent=True))
        if message.full_name == _RAW:
            return {"content": {"*/*": {"schema": {}}}, "description": "Bytes, as they are, of any media type."}
        bound = _bound(binding, "" if field is None else f"{field.name}.")
        if bound and special(message) is None:
            schema = self._schemas.add(f"{name}.Body", self._schemas.fields_of(message, bound))
        else:
            schema = self._schemas.message(message)
        body = _json(schema, self._examples.sent(message, bound))
        if any(is_required(one) and one.name not in bound for one in message.fields):
            body["required"] = True
        return body

    def _responses(self, binding: Binding, facts: Facts) -> Schema:
        descriptor = binding.method.descriptor
        if descriptor.client_streaming:
            return {"501": {"$ref": "#/components/responses/Error501"}, **errors_of(facts, self._error)}
        made = self._answer(descriptor.output_type, binding.rule.response_body)
        if facts.streams:
            made = _streamed(made)
        if facts.etag:
            made["headers"] = {"ETag": ETAG}
        success = {"200": made}
        if facts.streams:
            success["204"] = {"description": "The stream has nothing more to say after the Last-Event-ID."}
        if facts.etag:
            success["304"] = {"description": "It is still as the If-None-Match says.", "headers": {"ETag": ETAG}}
        return {**success, **errors_of(facts, self._error)}

    def _answer(self, reply: Descriptor, response_body: str) -> Schema:
        field = reply.fields_by_name[response_body] if response_body else None
        message = reply if field is None else None if field.is_repeated else field.message_type
        if message is not None and message.full_name == _RAW:
            return {"description": "Bytes, of the media type that the answer says.", "content": {"*/*": {"schema": {}}}}
        if field is None:
            comment = self._comments.get(reply.full_name, "")
            return _described(comment, self._schemas.message(reply), self._examples.answered(reply))
        comment = self._comments.get(field.full_name, "")
        schema = self._schemas.value(field)
        if field.has_presence and (field.message_type is None or has_special_form(field.message_type)):
            schema = nullable(schema)  # It may be absent, and then there is null in its place.
        return _described(comment, schema, self._examples.of_field(field, sent=False))


def _is_guarded(binding: Binding) -> bool:
    """Tell whether an If-Match becomes the etag of what the operation changes."""
    request, verb = binding.method.descriptor.input_type, binding.verb
    field = request.fields_by_name.get(binding.rule.body)
    if verb in ("PATCH", "PUT") and field is not None and not field.is_repeated and field.message_type is not None:
        return has_etag(field.message_type)
    return verb not in ("GET", "HEAD") and has_etag(request)


def _bound(binding: Binding, within: str) -> list[str]:
    """Return the names of those fields of the body that the path has already."""
    fields = [variable.field for variable in binding.template.variables]
    inside = [field.removeprefix(within) for field in fields if field.startswith(within)]
    return [field for field in inside if "." not in field]


def _description(facts: Facts) -> str:
    notes = [facts.comment] if facts.comment.rstrip(".") != first_sentence(facts.comment) else []
    if facts.for_admins and facts.guarded:
        notes.append("For admins alone.")
    if facts.streams:
        notes.append(_STREAM_NOTE)
    return "\n\n".join(notes)


def _json(schema: Schema, example: Any) -> Schema:
    return {"content": {_JSON: {"schema": schema, "example": example}}}


def _described(comment: str, schema: Schema, example: Any) -> Schema:
    return {"description": comment or "What the method answers.", **_json(schema, example)}


def _streamed(made: Schema) -> Schema:
    """Return the answer of a stream of what is the answer of one message."""
    shown = made["content"].get(_JSON)
    if shown is None:
        return made
    item, line = {"contentMediaType": _JSON, "contentSchema": shown["schema"]}, json.dumps(shown["example"])
    events = {"type": "string", "description": "Server-sent events.", "x-event-data": item}
    lines = {"type": "string", "description": "JSON, a line each.", "x-line": item}
    content = {
        "text/event-stream": {"schema": events, "example": f"data: {line}\n\n"},
        "application/x-ndjson": {"schema": lines, "example": f"{line}\n"},
    }
    return {"description": f"{made['description']} It comes again and again, as a stream.", "content": content}
