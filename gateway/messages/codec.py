"""Messages from JSON and to JSON, by protobuf's JSON mapping.

In come JSON names and the contract's own; an unknown field, a duplicate key or a wrong value is refused, and the
fault names the field by the client's own path (`reading`). Out go lowerCamelCase names, and fields with default values
too unless it is told otherwise (`writing`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import orjson

from gateway.messages.reading import Reader
from gateway.messages.values import Wrong
from gateway.messages.writing import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message


def parse(body: bytes | bytearray) -> Any:
    """Return what a JSON text says. Raises `Wrong` if it is none, or if an object has a key twice."""
    try:
        return _JSON.decode(body.decode())
    except Wrong:
        raise
    except UnicodeDecodeError as error:
        raise Wrong(("", "the body is not JSON: it is not UTF-8")) from error
    except json.JSONDecodeError as error:
        raise Wrong(("", f"the body is not JSON: {error}")) from error
    except RecursionError as error:
        raise Wrong(("", "the body is nested too deeply")) from error
    except ValueError as error:  # A number of thousands of digits.
        raise Wrong(("", "the body has a number in it that is too long")) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Wrong((twice, "is there twice in one object"))
    return made


def _refuse_constant(name: str) -> None:
    raise Wrong(("", f"the body is not JSON: write {name} as a string"))


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


class Codec:
    """Converts the messages of one pool."""

    def __init__(self, pool: DescriptorPool, *, lenient: bool = False, omit_defaults: bool = False) -> None:
        """With `lenient`, unknown fields are passed over; with `omit_defaults`, default values are not written.

        A field that can be absent, such as an `optional` one, is written if it is there, whatever its value.
        """
        self.lenient = lenient
        self._reader = Reader(pool, lenient=lenient)
        self._writer = Writer(pool, omit_defaults=omit_defaults)

    def read(self, value: Any, message: Message) -> None:
        """Read a parsed JSON object into `message`. Raises `Wrong`."""
        self._reader.message(cast("Descriptor", message.DESCRIPTOR))(value, message, 0)

    def read_field(self, field: FieldDescriptor) -> Callable[[Any, Message], None]:
        """Return what reads a parsed JSON value into that field of a message. It raises `Wrong`."""
        read = self._reader.field(field)
        return lambda value, message: read(value, message, 0)

    def write(self, message: Message) -> bytes:
        """Return `message` as JSON.

        Raises `TypeError` if it holds an `Any` of a type that nobody knows, `DecodeError` if it holds one that is
        broken, and `ValueError` if it holds what JSON has no form for, such as a time in the year 10000.
        """
        return orjson.dumps(self._writer.message(cast("Descriptor", message.DESCRIPTOR))(message))

    def write_field(self, field: FieldDescriptor) -> Callable[[Message], bytes]:
        """Return what gives that field of a message as JSON, null where it is absent. It raises as `write` does."""
        plain = self._writer.field(field)
        return lambda message: orjson.dumps(plain(message))
