"""Bodies that are no JSON: `google.api.HttpBody`, bytes with a media type, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

_HTTP_BODY = "google.api.HttpBody"
_UNKNOWN = b"application/octet-stream"


class RawReply:
    """What is raw in the answers of one rule."""

    def __init__(self, field: str) -> None:
        """`field` is where a reply has its HttpBody; nothing if it is one itself."""
        self._field = field

    def content_type(self, reply: Message | None) -> bytes:
        """Return the media type that a reply states; without one it is bytes of any kind (RFC 9110, 8.3)."""
        stated = "" if reply is None else self._of(reply).content_type
        return stated.encode("latin-1") if _is_printable(stated) else _UNKNOWN

    def data(self, reply: Message) -> bytes:
        """Return the bytes of a reply."""
        found: bytes = self._of(reply).data
        return found

    def _of(self, reply: Message) -> Any:
        return getattr(reply, self._field) if self._field else reply


class RawRequest:
    """Puts a body as it is into the requests of one rule."""

    def __init__(self, request: type[Message], field: str) -> None:
        """`field` is where a request has its HttpBody; nothing if it is one itself."""
        self._class = request
        self._field = field

    def fill(self, encoded: bytes, content_type: str, body: bytes) -> bytes:
        """Return an encoded request with a body in it."""
        request = self._class.FromString(encoded)
        place: Any = getattr(request, self._field) if self._field else request
        place.content_type = content_type
        place.data = body
        return request.SerializeToString()


def raw_reply(reply: Descriptor, response_body: str) -> RawReply | None:
    """Return what is raw in a reply, of which `response_body` is the body if it is set; None if nothing is."""
    return RawReply(response_body) if _is_raw(reply, response_body) else None


def raw_request(request: type[Message], body: str) -> RawRequest | None:
    """Return what fills a request with a raw body, as a rule has it whose body is `body`; None for one that is JSON."""
    field = "" if body == "*" else body
    return RawRequest(request, field) if body and _is_raw(request.DESCRIPTOR, field) else None  # type: ignore[arg-type]


def _is_raw(message: Descriptor, name: str) -> bool:
    if not name:
        return message.full_name == _HTTP_BODY
    field = message.fields_by_name.get(name)
    held = None if field is None or field.is_repeated else field.message_type
    return held is not None and held.full_name == _HTTP_BODY


def _is_printable(value: str) -> bool:
    """Tell whether it can be a header's value."""
    return bool(value) and value.isascii() and value.isprintable()
