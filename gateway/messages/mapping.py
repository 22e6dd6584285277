"""From an HTTP request to a request message, as one rule says: path variables, query parameters and a body.

The path wins: a body or query that contradicts it is refused, and so is everything that has no place in the
request, unless the codec is lenient with what is not known. What an annotation cannot mean is found when the mapping
is made.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import EncodeError

from gateway.errors import invalid, json_path
from gateway.http.etags import ETAG, has_etag
from gateway.messages.codec import parse
from gateway.messages.slots import NoSuchField, Slot, UnknownField
from gateway.messages.values import MOST_FAULTS, Wrong
from gateway.routing.template import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

    from gateway.messages.codec import Codec
    from gateway.routing.template import Template, Variable

_KEYED = re.compile(r"([^\[\]]+)\[(.*)\]", re.DOTALL)


class CannotServe(Exception):
    """An annotation that cannot be served; the message says why."""


class Mapping:
    """Makes the requests of one rule.

    `body` is what the rule says: the name of a field, `*`, or nothing. `fills_mask` is whether an absent
    `update_mask` becomes the fields that the body has.
    """

    def __init__(
        self, request: type[Message], template: Template, body: str, codec: Codec, *, fills_mask: bool = False
    ) -> None:
        """Raises `CannotServe`."""
        self._class = request
        self.descriptor = cast("Descriptor", request.DESCRIPTOR)
        self.body = body
        self._codec = codec
        self._variables = [(variable, self._bind(variable)) for variable in template.variables]
        self._body_field = self._find_body_field()
        self._read_body_field = None if self._body_field is None else codec.read_field(self._body_field)
        self._mask = self._find_mask() if fills_mask else ""
        bound = {slot.path for _, slot in self._variables}
        self._unmasked = {path.removeprefix(f"{body}.") for path in bound}
        if self._body_field is not None and self._body_field.message_type is not None:
            # A condition, and no change (AIP-154).
            self._unmasked |= {ETAG} if has_etag(self._body_field.message_type) else set()
        self._slot = lru_cache(maxsize=256)(self._find_slot)

    def request(self, segments: Sequence[str], query: bytes, body: bytes | bytearray) -> bytes:
        """Return the encoded request. Raises `Refusal` (400)."""
        message = self._class()
        faults: list[tuple[str, str]] = []
        names = self._read_body(message, body)
        if query:
            faults += islice(self._read_query(message, query), MOST_FAULTS)
        for variable, slot in self._variables:
            try:
                slot.put_for_certain(message, variable.capture(segments))
            except Wrong as error:
                faults += error.below(json_path(slot.path, self.descriptor, self._body_name))
        if faults:
            raise invalid(faults)
        if names and self._mask and not message.HasField(self._mask):
            getattr(message, self._mask).paths.extend(names)
        try:
            return message.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise invalid([("", f"the request cannot be encoded: {error}")]) from error

    @property
    def _body_name(self) -> str:
        return "" if self.body == "*" else self.body

    def _bind(self, variable: Variable) -> Slot:
        try:
            slot = Slot(self.descriptor, variable.field)
        except NoSuchField as error:
            raise CannotServe(f"{self.descriptor.full_name}.{variable.field}, which is in the path, {error}") from error
        if slot.field.is_repeated:
            raise CannotServe(f"{variable.field} is repeated, and a path cannot hold it")
        return slot

    def _find_body_field(self) -> FieldDescriptor | None:
        if self.body in ("", "*"):
            return None
        field = self.descriptor.fields_by_name.get(self.body)
        if field is None:
            raise CannotServe(f"{self.descriptor.full_name} has no field {self.body}, which is to be the body")
        if any(slot.path == self.body for _, slot in self._variables):
            raise CannotServe(f"{self.body} is both in the path and the body")
        return field

    def _find_mask(self) -> str:
        field = self.descriptor.fields_by_name.get("update_mask")
        is_mask = field is not None and field.message_type is not None and not field.is_repeated
        if not is_mask or field.message_type.full_name != "google.protobuf.FieldMask":  # type: ignore[union-attr]
            return ""
        has_fields = self._body_field is not None and self._body_field.message_type is not None
        return "update_mask" if has_fields and self.body != "update_mask" else ""

    def _read_body(self, message: Message, body: bytes | bytearray) -> list[str]:
        """Read the body, and return the contract's names of the fields that it has, if they make a mask."""
        if not body:
            return []
        if not self.body:
            raise invalid([("", "this method takes no body")])
        try:
            value = parse(body)
            if self._read_body_field is None:
                self._codec.read(value, message)
                return []
            if value is None:
                raise Wrong(("", "the body must not be null"))
            self._read_body_field(value, message)
        except Wrong as error:
            raise invalid(error.faults) from error
        return list(self._masked(value)) if self._mask else []

    def _masked(self, value: dict[str, Any]) -> Iterator[str]:
        assert self._body_field is not None and self._body_field.message_type is not None  # noqa: PT018
        for field in self._body_field.message_type.fields:
            if (field.json_name in value or field.name in value) and field.name not in self._unmasked:
                yield field.name

    def _read_query(self, message: Message, query: bytes) -> Iterator[tuple[str, str]]:
        given: dict[str, list[str]] = {}
        try:
            for name, text in _parameters(query):
                given.setdefault(name, []).append(text)
        except ValueError as error:
            yield "", f"the query cannot be read: {error}"
            return
        places: dict[tuple[str, str | None], str] = {}
        for name, texts in given.items():
            try:
                match = _KEYED.fullmatch(name)
                slot, key = self._slot(match[1] if match else name), match[2] if match else None
                if (other := places.setdefault((slot.path, key), name)) != name:
                    raise Wrong(("", f"must not be there beside {other}"))
                slot.put(message, texts, key)
            except UnknownField as error:
                if not self._codec.lenient:
                    yield name, str(error)
            except (Wrong, NoSuchField) as error:
                yield name, str(error)

    def _find_slot(self, name: str) -> Slot:
        if self.body == "*" and not self._codec.lenient:
            raise NoSuchField("is not known here: this method takes its fields in the body")
        slot = Slot(self.descriptor, name)
        if self.body == "*":
            raise NoSuchField("belongs into the body")
        if self.body and (slot.path == self.body or slot.path.startswith(f"{self.body}.")):
            raise NoSuchField("belongs into the body")
        return slot


def _parameters(query: bytes) -> Iterator[tuple[str, str]]:
    """Give the parameters of a query, in which `+` is a space. Raises `ValueError` if it is malformed."""
    for part in query.decode("ascii").replace("+", " ").split("&"):
        if part:
            name, _, text = part.partition("=")
            yield decode(name), decode(text)
