"""Tokens in the query, for a browser's EventSource, which cannot send headers (RFC 6750, 2.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote_to_bytes

import grpc

from gateway.errors import refusal

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from uvicorn._types import HTTPScope

    from gateway.errors import Refusal

NAME = b"access_token"
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


def is_free(request: Descriptor) -> bool:
    """Tell whether a request has no field that the parameter could be meant for; one that it has goes first."""
    return all(NAME.decode() not in (field.name, field.json_name) for field in request.fields)


def moved(scope: HTTPScope) -> HTTPScope:
    """Return a request whose token, if it is in the query, is in a header instead, and nowhere else.

    Raises `Refusal` (400) for one that is malformed, and for a second one.
    """
    if NAME not in (query := scope["query_string"]):
        return scope
    parts = [part.partition(b"=") for part in query.split(b"&")]
    tokens = [unquote_to_bytes(value.replace(b"+", b" ")) for name, _, value in parts if name == NAME]
    if not tokens:
        return scope
    if len(tokens) > 1 or any(name == b"authorization" for name, _ in scope["headers"]):
        raise _refused("there must be one token, in the header Authorization or as access_token in the query")
    if not _TOKEN.fullmatch(tokens[0]):
        raise _refused("the query's access_token is not what a token looks like")
    rest = b"&".join(b"".join(part) for part in parts if part[0] != NAME)
    headers = [*scope["headers"], (b"authorization", b"Bearer " + tokens[0])]
    return cast("HTTPScope", {**scope, "query_string": rest, "headers": headers})


def _refused(message: str) -> Refusal:
    return refusal(400, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TOKEN_PARAMETER", message)
