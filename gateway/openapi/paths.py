"""Paths as OpenAPI has them: a name for each wildcard, which stands for one segment and never for a slash.

A template such as `/v1/{shelf=shelves/*}/books/{id}` becomes `/v1/shelves/{shelf}/books/{id}`. All methods of one path
share one Path Item, so they share the names of its parameters too: those of the first one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from gateway.messages.slots import Slot
from gateway.routing.template import Wildcard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    from gateway.routing.template import Template, Variable

_UNRESERVED = "!$&'()+,;=@-._~"


@dataclass(frozen=True, slots=True)
class Place:
    """One wildcard of a template."""

    name: str
    """What its parameter is called."""
    field: FieldDescriptor | None
    """What it becomes a part of; None for a wildcard that is in no variable."""
    whole: bool
    """Whether it is all of that field's value."""
    pattern: str
    """The segments of its variable, as in `shelves/*`."""
    many: bool
    """Whether it stands for several segments, or none."""


def places(template: Template, request: Descriptor) -> list[Place]:
    """Return the wildcards of a template from left to right, under names that differ."""
    found = [_place(template, request, at) for at in range(len(template.segments)) if _is_wild(template, at)]
    count, used = Counter(place.name for place in found), Counter[str]()
    return [_numbered(place, count, used) for place in found]


def path_of(template: Template, names: list[str]) -> str:
    """Return the path, with these names for its wildcards."""
    left = iter(names)
    segments = [
        f"{{{next(left)}}}" if isinstance(one, Wildcard) else quote(one, safe=_UNRESERVED) for one in template.segments
    ]
    verb = f":{quote(template.verb, safe=_UNRESERVED)}" if template.verb else ""
    return f"/{'/'.join(segments)}{verb}"


def shape(template: Template) -> str:
    """Return what makes a path one of its own for OpenAPI, which does not look at names or at how much they match."""
    return path_of(template, [""] * sum(isinstance(one, Wildcard) for one in template.segments))


def _is_wild(template: Template, at: int) -> bool:
    return isinstance(template.segments[at], Wildcard)


def _place(template: Template, request: Descriptor, at: int) -> Place:
    many = template.segments[at] is Wildcard.REST
    variable = next((one for one in template.variables if one.start <= at and (one.end is None or at < one.end)), None)
    if variable is None:
        return Place("segments" if many else "segment", None, False, "", many)
    segments = template.segments[variable.start : variable.end]
    slot = Slot(request, variable.field)
    pattern = "/".join(one.value if isinstance(one, Wildcard) else one for one in segments)
    return Place(".".join(_json_names(request, variable)), slot.field, len(segments) == 1, pattern, many)


def _json_names(request: Descriptor, variable: Variable) -> Iterator[str]:
    message: Descriptor | None = request
    for name in variable.field.split("."):
        assert message is not None
        field = message.fields_by_name.get(name) or next(one for one in message.fields if one.json_name == name)
        yield field.json_name
        message = field.message_type


def _numbered(place: Place, count: Counter[str], used: Counter[str]) -> Place:
    if count[place.name] == 1:
        return place
    used[place.name] += 1
    return Place(f"{place.name}{used[place.name]}", place.field, place.whole, place.pattern, place.many)
