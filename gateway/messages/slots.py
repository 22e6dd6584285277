"""Places in a request message that text from a path or query goes to: a field, however deep, or a key of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.messages.values import Wrong, from_text, is_wrapper, map_entry, read_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

    Put = Callable[[Any, str], None]
    """Puts one text into a field, or an element of it, of the message that has the field."""

_LONGEST = 32
"""Names in a path of fields; a type may contain itself."""


class NoSuchField(Exception):
    """A path names no field, or one that text cannot be put into; the message says why."""


class UnknownField(NoSuchField):
    """A path names no field; a gateway that is lenient passes over it."""


class Slot:
    """One place; made once for each name that clients use."""

    __slots__ = ("_in_map", "_put", "_steps", "field", "path")

    def __init__(self, request: Descriptor, path: str) -> None:
        """Find `path`, of JSON names or the contract's own, in a request. Raises `NoSuchField` and `UnknownField`."""
        fields = _resolve(request, path)
        self.field: FieldDescriptor = fields[-1]
        self.path = ".".join(field.name for field in fields)
        """In the contract's names."""
        self._steps = tuple((field.name, _oneof_of(field)) for field in fields)
        entry = map_entry(self.field)
        self._in_map = entry is not None
        self._put: Callable[[Any, str], None] = (
            _put_in(self.field) if entry is None else _put_in_map(self.field.name, entry)
        )

    def _parent(self, message: Any) -> Any:
        """Return the message within `message` that has the field. Raises `Wrong` if a oneof has another member."""
        parent = message
        for name, oneof in self._steps:
            parent = message
            if oneof and (other := parent.WhichOneof(oneof)) not in (None, name):
                raise Wrong(("", f"must not be there beside {_json_name(parent, other)}"))
            message = getattr(parent, name)
        return parent

    def put(self, message: Message, texts: Sequence[str], key: str | None = None) -> None:
        """Put what a client gave, under `key` of a map. Raises `Wrong`."""
        parent = self._parent(message)
        if self._in_map != (key is not None):
            raise Wrong(("", "must be given by key, as in labels[key]" if self._in_map else "has no keys"))
        if len(texts) > 1 and (not self.field.is_repeated or self._in_map):
            raise Wrong(("", f"must not be there {len(texts)} times"))
        if key is not None:
            self._put((parent, key), texts[0])
            return
        for text in texts:
            self._put(parent, text)

    def put_for_certain(self, message: Message, text: str) -> None:
        """Put what the path says. Raises `Wrong` too if something else is there already."""
        parent = self._parent(message)
        name = self.field.name
        there = parent.HasField(name) if self.field.has_presence else getattr(parent, name) != self.field.default_value
        if not there:
            self.put(message, [text])
            return
        said = type(parent)()
        self._put(said, text)
        if getattr(said, name) != getattr(parent, name):
            raise Wrong(("", "contradicts the path"))


def _json_name(message: Message, name: str) -> str:
    return message.DESCRIPTOR.fields_by_name[name].json_name


def _oneof_of(field: FieldDescriptor) -> str:
    """Return the name of the oneof that a field shares with others; nothing if there is none."""
    oneof = field.containing_oneof
    return oneof.name if oneof is not None and len(oneof.fields) > 1 else ""


def _resolve(request: Descriptor, path: str) -> list[FieldDescriptor]:
    names = path.split(".")
    if len(names) > _LONGEST:
        raise NoSuchField("is nested too deeply")
    fields: list[FieldDescriptor] = []
    message: Descriptor | None = request
    for name in names:
        field = None if message is None else field_of(message, name)
        if field is None or (fields and fields[-1].is_repeated):
            raise UnknownField("is not known here")
        fields.append(field)
        message = field.message_type
    return fields


def field_of(message: Descriptor, name: str) -> FieldDescriptor | None:
    """Return the field with that JSON name, or that name in the contract."""
    found = message.fields_by_name.get(name)
    return found or next((field for field in message.fields if field.json_name == name), None)


def _put_in(field: FieldDescriptor) -> Put:
    name, message = field.name, field.message_type
    if message is None:
        convert = from_text(field)
        if field.is_repeated:
            return lambda parent, text: getattr(parent, name).append(convert(text))
        return lambda parent, text: setattr(parent, name, convert(text))
    read = read_message(message)
    if read is None and is_wrapper(message):
        read = _read_wrapped(message)
    if read is None:
        raise NoSuchField("is a message: give its fields, as in a.b")
    into = read
    if field.is_repeated:
        return lambda parent, text: into(text, getattr(parent, name).add())

    def put(parent: Any, text: str) -> None:
        held = getattr(parent, name)
        held.SetInParent()
        into(text, held)

    return put


def _read_wrapped(message: Descriptor) -> Callable[[Any, Any], None]:
    convert = from_text(message.fields_by_name["value"])
    return lambda text, held: setattr(held, "value", convert(text))


def _put_in_map(name: str, entry: Descriptor) -> Callable[[tuple[Any, str], str], None]:
    of_key, of_value = (entry.fields_by_name[part] for part in ("key", "value"))
    if of_value.message_type is not None:
        raise NoSuchField("is a map of messages, which only a body can give")
    convert_key, convert = from_text(of_key), from_text(of_value)

    def put(place: tuple[Any, str], text: str) -> None:
        parent, key = place
        getattr(parent, name)[convert_key(key)] = convert(text)

    return put
