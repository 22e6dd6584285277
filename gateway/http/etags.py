"""Entity tags (RFC 9110, 8.8.3): whether a client has the answer already, and whether what it changes is what it saw.

A message that has a text field `etag` of its own (AIP-154) is tagged by that, and an update of it is guarded by
If-Match, which becomes the field of the request: it is the service that compares. Any other answer is tagged by a hash
of its body, weakly, as the same message may be written in more than one way.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from gateway.errors import invalid, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from gateway.http.answers import Header
    from gateway.http.requests import Headers
    from gateway.routing.template import Template

ETAG = "etag"
"""The field's name, wherever there is one."""

_KEPT: tuple[Header, ...] = ((b"cache-control", b"private, no-cache"), (b"vary", b"authorization, accept-language"))
"""A client may keep the answer, and asks each time whether it still holds. A browser must not ask so on behalf of the
next user: an etag names the state of a thing, and not what is shown of it to whom."""
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_TAGS = re.compile(rb'"[^"]*"')
_MADE = '"='
"""How the tag of a field begins whose text cannot be one as it is; the rest is its base64."""
_SAFE = ("GET", "HEAD")


class Tagged(NamedTuple):
    """What a tag makes of an answer."""

    headers: Sequence[Header]
    body: bytes | None
    """None if the client has it."""


class Tags:
    """Tags the answers of one route."""

    def __init__(self, within: str, *, own: bool) -> None:
        """`within` is the field of the reply that is the body, or nothing; `own` is whether that has an etag."""
        self._within = within
        self._own = own

    def apply(self, message: Message, encode: Callable[[Message], bytes], known: bytes | None) -> Tagged:
        """Tag an answer, and write it if it is none of those that the client says to have, in If-None-Match."""
        body = None
        tag = self._own_tag(message) if self._own else b""
        if not tag:
            body = encode(message)
            tag = b'W/"%b"' % urlsafe_b64encode(blake2b(body, digest_size=12).digest())
        headers = ((b"etag", tag), *_KEPT)
        if known is not None and (known.strip() == b"*" or _opaque(tag) in _TAGS.findall(known)):
            return Tagged((*headers, (b"vary", b"accept-encoding")), None)
        return Tagged(headers, encode(message) if body is None else body)

    def _own_tag(self, message: Any) -> bytes:
        holder = getattr(message, self._within) if self._within else message
        return header_of(holder.etag) if holder.etag else b""


class Guard:
    """Puts the If-Match of a request into its field `etag`, on one route; `path` is of that field, if there is one."""

    def __init__(self, request: type[Message], path: Sequence[str]) -> None:
        self._class = request
        self._path = path

    def fill(self, encoded: bytes, method: str, headers: Headers) -> bytes:
        """Return an encoded request on which its condition, if it has one, is put.

        Raises `Refusal`: 412 where a condition on a change would not be kept, 400 where it cannot be passed on.
        """
        if method in _SAFE or (headers.if_match is None and headers.if_none_match is None):
            return encoded
        if headers.if_match is None or headers.if_none_match is not None or not self._path:
            message = "this method cannot keep such a condition: send it without If-Match and If-None-Match"
            raise refusal(412, grpc.StatusCode.FAILED_PRECONDITION, "CONDITION_NOT_SUPPORTED", message)
        asked = headers.if_match.decode("latin-1").strip()
        return encoded if asked == "*" else self._put(encoded, _value_of(asked))

    def _put(self, encoded: bytes, etag: str) -> bytes:
        request = self._class.FromString(encoded)
        holder: Any = request
        for name in self._path[:-1]:
            holder = getattr(holder, name)
        if holder.etag not in ("", etag):
            raise invalid([(ETAG, "contradicts If-Match")])
        holder.etag = etag
        return request.SerializeToString()


def tags_of(method: str, template: Template, reply: Descriptor, response_body: str) -> Tags | None:
    """Return what tags the answers of a unary method's route: a GET of one thing, which variables name, and no list."""
    if method != "GET" or not template.variables or "next_page_token" in reply.fields_by_name:
        return None
    if not response_body:
        return Tags("", own=has_etag(reply))
    field = reply.fields_by_name[response_body]
    if field.is_repeated:
        return None
    return Tags(response_body, own=field.message_type is not None and has_etag(field.message_type))


def guard_of(method: str, request: type[Message], body: str) -> Guard:
    """Return what guards a route: by the etag of the thing that a PATCH or PUT changes, or of the request itself."""
    descriptor: Descriptor = request.DESCRIPTOR  # type: ignore[assignment]
    field = descriptor.fields_by_name.get(body)
    if method in ("PATCH", "PUT") and field is not None and not field.is_repeated and field.message_type is not None:
        return Guard(request, (body, ETAG) if has_etag(field.message_type) else ())
    return Guard(request, (ETAG,) if has_etag(descriptor) else ())


def has_etag(message: Descriptor) -> bool:
    """Tell whether a message has the text field `etag` of AIP-154."""
    field = message.fields_by_name.get(ETAG)
    return field is not None and field.type == field.TYPE_STRING and not field.is_repeated


def header_of(etag: str) -> bytes:
    """Return the tag for the text of a field: that text if it is a tag, or else one from which it can be had again."""
    if _TAG.fullmatch(etag) and not etag.startswith(_MADE):
        return etag.encode("ascii")
    return f'{_MADE}{urlsafe_b64encode(etag.encode()).decode()}"'.encode("ascii")


def _value_of(tag: str) -> str:
    """Return the text of the field whose tag this is. Raises `Refusal` (400) if it is no tag, or several."""
    if not _TAG.fullmatch(tag):
        message = "the header if-match must be the one ETag of an answer, in its quotation marks, or *"
        raise refusal(400, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_HEADER", message)
    if not tag.startswith(_MADE):
        return tag
    try:
        text = urlsafe_b64decode(tag[len(_MADE) : -1]).decode()
    except ValueError:
        return tag
    # What was not made here is nobody's tag; left as it is, it matches nothing.
    return text if text and header_of(text) == tag.encode("ascii") else tag


def _opaque(tag: bytes) -> bytes:
    """Return what weak comparison looks at."""
    return tag.removeprefix(b"W/")
