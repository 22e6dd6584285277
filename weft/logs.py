"""Logs: JSON lines for machines, coloured lines on a terminal, with ids on every line.

`bound` puts ids on all lines logged within its `with`, in this task or thread: first the service's name and
instance, then what each call or event is about. So several services can log from one process. Lines of
libraries come out the same way. Of protobuf messages the fields marked `[debug_redact = true]` are blanked.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TextIO

import orjson
import structlog
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from structlog.processors import format_exc_info
from structlog.stdlib import (
    BoundLogger,
    ExtraAdder,
    PositionalArgumentsFormatter,
    ProcessorFormatter,
    filter_by_level,
)

from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import Token

    from google.protobuf.descriptor import Descriptor
    from structlog.typing import EventDict, Processor, WrappedLogger

_ids: ContextVar[Mapping[str, object] | BoundLater] = ContextVar("weft_log_ids", default=MappingProxyType({}))

_ID_LENGTH = 64
_CHATTY = ("alembic", "asyncio", "uvicorn.error")
"""Libraries whose lines below a warning say nothing about us."""
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_COLOURS = {
    "debug": _DIM,
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[41m",
}


def configure(
    *, level: str = "info", format: Literal["auto", "json", "text"] = "auto", stream: TextIO | None = None
) -> None:
    """Send the logs of this process to `stream` (standard output), replacing what an earlier call set up.

    `auto` is text on a terminal and JSON lines elsewhere.
    """
    out = stream or sys.stdout
    as_text = format == "text" or (format == "auto" and out.isatty())
    colours = out.isatty() and "NO_COLOR" not in os.environ
    render = _text_renderer(colours=colours) if as_text else _render_json
    handler = _Handler(out)
    handler.setFormatter(
        ProcessorFormatter(processors=[format_exc_info, _compose, render], foreign_pre_chain=[ExtraAdder()])
    )
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Handler(logging.StreamHandler[TextIO]):
    """The one that `configure` adds, and may take away again."""


def logger(name: str) -> BoundLogger:
    """Return the structured logger `name`: `log.info("what happened", order_id=...)`."""
    wrapped: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[filter_by_level, PositionalArgumentsFormatter(), ProcessorFormatter.wrap_for_formatter],
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )
    return wrapped


def bound(**ids: object) -> Bound:
    """Put `ids` on every line logged within the `with`, beside those of the `with`s around it.

    A new thread starts without ids: run it in `contextvars.copy_context()`.
    """
    return Bound(ids)


class Bound:
    """What `bound` returns; may be entered once."""

    __slots__ = ("_new", "_token")
    _token: Token[Mapping[str, object] | BoundLater]

    def __init__(self, ids: Mapping[str, object]) -> None:
        self._new = ids

    def __enter__(self) -> None:
        self._token = _ids.set({**_bound_ids(), **self._new})

    def __exit__(self, *_: object) -> None:
        _ids.reset(self._token)


class BoundLater:
    """Puts ids on lines as `bound` does, but looks for them only when a line is logged, which most work never does.

    May be entered again once it was left. `find` returns the ids.
    """

    __slots__ = ("_find", "_outer", "_token")
    _outer: Mapping[str, object] | BoundLater
    _token: Token[Mapping[str, object] | BoundLater]

    def __init__(self, find: Callable[[], Mapping[str, object]]) -> None:
        self._find = find

    def __enter__(self) -> None:
        self._outer = _ids.get()
        self._token = _ids.set(self)

    def __exit__(self, *_: object) -> None:
        _ids.reset(self._token)

    def found(self) -> dict[str, object]:
        """Return the ids, and those of the `with`s around it."""
        return {**_found(self._outer), **self._find()}


def _found(ids: Mapping[str, object] | BoundLater) -> Mapping[str, object]:
    return ids.found() if isinstance(ids, BoundLater) else ids


def _bound_ids() -> Mapping[str, object]:
    return _found(_ids.get())


def ids_of(message: Message) -> dict[str, str]:
    """Return what identifies `message` in a log: its non-empty string fields `*_id` and `sku`.

    Fields marked `[debug_redact = true]` are left out; values come from outside and are cut at 64 characters.
    """
    found = {}
    for name in _id_fields(message.DESCRIPTOR):
        if value := getattr(message, name):
            found[name] = value[:_ID_LENGTH]
    return found


@cache
def _id_fields(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in descriptor.fields
        if (field.name.endswith("_id") or field.name == "sku")
        and field.type == FieldDescriptor.TYPE_STRING
        and not field.is_repeated
        and not field.GetOptions().debug_redact
    )


def redacted(message: Message) -> str:
    """Return `message` on one line of protobuf text, with its `[debug_redact = true]` fields blanked."""
    return " ".join(_shown(message))


def _shown(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"[{field.full_name}]" if field.is_extension else field.name
        if field.GetOptions().debug_redact:
            yield f"{name}: [REDACTED]"
        elif field.message_type and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            yield from (f"{name} {{ key: {_scalar(key)} value: {_value(of, value[key])} }}" for key in value)
        elif field.is_repeated:
            yield from (f"{name}: {_value(field, item)}" for item in value)
        else:
            yield f"{name}: {_value(field, value)}"


def _value(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, Message):
        if value.DESCRIPTOR.full_name == "google.protobuf.Any":  # What it holds cannot be checked.
            return f"{{ type_url: {_scalar(value.type_url)} }}"  # type: ignore[attr-defined]
        return f"{{ {' '.join(_shown(value))} }}"
    if field.enum_type and value in field.enum_type.values_by_number:
        return str(field.enum_type.values_by_number[value].name)
    return _scalar(value)


def _scalar(value: str | bytes | float) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return json.dumps(value, ensure_ascii=False)


def _compose(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog")
    head = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": event.pop("event"),
    }
    return {**head, **_bound_ids(), **Tracing.current().ids, **event, **head}


def _render_json(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    try:
        return orjson.dumps(line, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # Half a surrogate pair, or an integer beyond 64 bits.
        return json.dumps(line, default=_plain, skipkeys=True)


def _plain(value: object) -> str:
    return redacted(value) if isinstance(value, Message) else str(value)


def _text_renderer(*, colours: bool) -> Processor:
    def paint(style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if colours and text else text

    def render(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
        time, level, message = line.pop("time")[11:23], line.pop("level"), _printable(line.pop("message"))
        service, instance = line.pop("service", ""), line.pop("instance", "")
        source = instance if instance.startswith(service) else f"{service}-{instance}"
        exception = line.pop("exception", None)
        line.pop("span_id", None)
        parts = (
            paint(_DIM, time),
            paint(_COLOURS.get(level, ""), f"{level:<7}"),
            f"{source:<12}",
            paint(_DIM, line.pop("logger")),
            paint(_BOLD, message),
            *(f"{paint(_DIM, key + '=')}{_printable(value)}" for key, value in line.items()),
        )
        text = " ".join(filter(None, parts))
        return f"{text}\n{exception}" if exception else text

    return render


def _printable(value: object) -> str:
    text = _plain(value)
    return text if text.isprintable() else repr(text)
