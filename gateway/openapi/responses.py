"""What operations answer: their messages, their streams, and errors with the status codes that can come."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grpc

from gateway.errors import HTTP_STATUS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from gateway.openapi.operations import Facts
    from gateway.openapi.schemas import Schemas

    Schema = dict[str, Any]

_DETAILS = ("ErrorInfo", "BadRequest", "RetryInfo", "RequestInfo", "QuotaFailure", "PreconditionFailure")
_URL = "type.googleapis.com/"
_CODES = {code.name: HTTP_STATUS[code.value[0]] for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
_SENTENCES = re.compile(r"(?<=[.;])\s+")
_MENTIONED = re.compile(rf"\b({'|'.join(_CODES)})\b")
_MEANS = {
    400: "The request cannot be read, or is not one that the service takes: the details name each field at fault.",
    401: "There is no token, or it is not valid.",
    403: "The token does not allow this.",
    404: "What the path names is not there.",
    406: "None of the formats that the Accept takes is there.",
    409: "It is not possible as things are now: something is there already, or changes at this moment.",
    412: "It has changed since it was read: its ETag is another one.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "Another request was made with this Idempotency-Key.",
    429: "Too many requests: Retry-After says when to come again.",
    500: "Something is wrong in the service or in the gateway; the answer says where it is written down.",
    501: "The service cannot do this.",
    503: "The service is not reachable now: Retry-After says when to come again.",
    504: "It took too long.",
}
_ALWAYS = (400, 429, 500, 503, 504)
_AGAIN = {429, 503}

RETRY_AFTER: Schema = {
    "description": "Seconds after which to come again.",
    "schema": {"type": "integer", "minimum": 0},
}
CHALLENGE: Schema = {"description": "How to prove who calls (RFC 6750).", "schema": {"type": "string"}}
ETAG: Schema = {
    "description": "Stands for this state of it: for If-None-Match, and for If-Match in a change.",
    "schema": {"type": "string"},
}


def details_of(pool: DescriptorPool) -> list[Descriptor]:
    """Return the messages that errors have as details."""
    return [pool.FindMessageTypeByName(f"google.rpc.{name}") for name in _DETAILS]


def error_schema(schemas: Schemas, details: Iterable[Descriptor]) -> Schema:
    """Add the schema of errors, `google.rpc.Status` with these details or others, and return a reference to it."""
    known = {one.full_name: schemas.message(one) for one in details}
    choices = [{"allOf": [made, _typed({"const": _URL + name})], "title": name} for name, made in known.items()]
    others = _typed({"type": "string", "not": {"enum": [_URL + name for name in known]}})
    items = {"anyOf": [*choices, {**others, "title": "any other message"}]}
    properties = {
        "code": {"type": "integer", "description": "The google.rpc.Code.", "minimum": 0},
        "message": {"type": "string", "description": "What is wrong, for people who write programs."},
        "details": {"type": "array", "items": items, "description": "What is wrong, for programs."},
    }
    schema = {
        "type": "object",
        "description": "An error (AIP-193). The ErrorInfo in its details has the reason; its domain is `gateway` for "
        "errors of the gateway's own.",
        "properties": properties,
        "required": ["code", "message", "details"],
    }
    return schemas.add("google.rpc.Status", schema)


def _typed(kind: Schema) -> Schema:
    return {"type": "object", "properties": {"@type": kind}, "required": ["@type"]}


def error_responses(error: Schema) -> dict[str, Schema]:
    """Return the errors that operations share, by the names under which the document has them."""
    return {_name(status): _error(status, means, error) for status, means in _MEANS.items()} | {
        "Error": _error(0, "Any other error.", error)
    }


def errors_of(facts: Facts, error: Schema) -> dict[str, Schema]:
    """Return the errors that one operation can answer with, by their status codes."""
    said = dict(_said(facts.comment))
    found: dict[str, Schema] = {}
    for status in sorted({*_possible(facts), *said}):
        shared = {"$ref": f"#/components/responses/{_name(status)}"}
        found[str(status)] = _error(status, said[status], error) if status in said else shared
    return {**found, "default": {"$ref": "#/components/responses/Error"}}


def _error(status: int, means: str, error: Schema) -> Schema:
    made: Schema = {"description": means, "content": {"application/json": {"schema": error}}}
    if status in _AGAIN:
        made["headers"] = {"Retry-After": RETRY_AFTER}
    if status == 401:
        made["headers"] = {"WWW-Authenticate": CHALLENGE}
    return made


def _name(status: int) -> str:
    return f"Error{status}"


def _possible(facts: Facts) -> Iterator[int]:
    """Give the status codes that an operation can have whatever its comment says."""
    yield from _ALWAYS
    if facts.guarded:
        yield from (401, 403)
    if facts.has_places:
        yield 404
    if facts.verb != "GET":
        yield 409
    if facts.has_body:
        yield from (413, 415)
    if facts.streams:
        yield 406
    if facts.keeps_answer:
        yield 422
    if facts.if_match:
        yield 412


def _said(comment: str) -> Iterator[tuple[int, str]]:
    """Give the status codes of the error codes that a comment names, with the sentence that does."""
    for sentence in _SENTENCES.split(comment):
        for code in _MENTIONED.findall(sentence):
            yield _CODES[code], " ".join(sentence.split()).rstrip(";.") + "."
