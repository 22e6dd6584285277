"""Where in a stream a message is: the fields that a contract marks with `weftapi.v1.stream_position`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import invalid
from weftapi.v1 import annotations_pb2 as weft_annotations

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

_LONGEST = 4096


def position_of(message: Descriptor) -> str:
    """Return the name of the field that says a position; nothing if there is none.

    Raises `ValueError` for one that is no text, and where there are several.
    """
    found = [field for field in message.fields if _is_position(field)]
    if not found:
        return ""
    if len(found) > 1 or found[0].type != found[0].TYPE_STRING or found[0].is_repeated:
        raise ValueError(f"{message.full_name} must have one field of text that is a stream_position")
    return found[0].name


class Resume:
    """Has the requests of one method begin where their client was cut off."""

    def __init__(self, request: type[Message], field: str) -> None:
        self._class = request
        self._field = field

    def fill(self, encoded: bytes, last: bytes | None) -> tuple[bytes, bool]:
        """Return an encoded request that goes on after `last`, the Last-Event-ID of its client, and whether it goes on.

        The header goes before the field as the query has it: an EventSource that was cut off comes back to the same
        address. Raises `Refusal` (400).
        """
        request = self._class.FromString(encoded)
        if last is None:
            return encoded, bool(getattr(request, self._field))
        try:
            position = last.decode()
        except UnicodeDecodeError:
            position = None
        if position is None or len(last) > _LONGEST:
            raise invalid([("", f"the header last-event-id must be at most {_LONGEST} bytes of UTF-8")])
        setattr(request, self._field, position)
        return request.SerializeToString(), bool(position)


def _is_position(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().Extensions[weft_annotations.stream_position])
