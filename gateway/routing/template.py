"""The path templates of google/api/http.proto:

Template = "/" Segments [ Verb ] ;            Variable  = "{" FieldPath [ "=" Segments ] "}" ;
Segments = Segment { "/" Segment } ;          FieldPath = IDENT { "." IDENT } ;
Segment  = "*" | "**" | LITERAL | Variable ;  Verb      = ":" LITERAL ;
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=@-]|%[0-9A-Fa-f]{2})+")
_MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASH = re.compile(r"(%2[Ff])")


class Wildcard(Enum):
    """What stands for segments that the template does not spell out."""

    ONE = "*"
    """One segment that is not empty."""
    REST = "**"
    """All segments that are left, and there may be none."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A part of the path that becomes a field: the segments from `start` to `end` (None: to the last one)."""

    field: str
    """Its path in the request message, as in `product.sku`."""
    start: int
    end: int | None

    def capture(self, segments: Sequence[str]) -> str:
        """Return its value in a path, given by its segments as the client wrote them.

        A variable of a single segment is decoded whole; in a longer one `%2F` stays. Raises `ValueError` if
        that is not percent-encoded UTF-8.
        """
        if self.end == self.start + 1:
            return decode(segments[self.start])
        return "/".join(_decode_but_slashes(one) for one in segments[self.start : self.end])


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Literals are decoded: they are compared with decoded segments."""

    text: str
    segments: tuple[str | Wildcard, ...]
    verb: str
    """What follows the colon; nothing if there is none."""
    variables: tuple[Variable, ...]

    @property
    def shape(self) -> tuple[tuple[str | Wildcard, ...], str]:
        """What it matches: templates of one shape match the same paths."""
        return self.segments, self.verb


def decode(text: str) -> str:
    """Decode percent-encoding. Raises `ValueError` if it is malformed, or not UTF-8."""
    if "%" not in text:
        return text
    if _MALFORMED.search(text):
        raise ValueError("a percent sign must be followed by two hexadecimal digits")
    return unquote_to_bytes(text).decode()


def _decode_but_slashes(segment: str) -> str:
    if "%" not in segment:
        return segment
    return "".join(part if _SLASH.fullmatch(part) else decode(part) for part in _SLASH.split(segment))


def parse(text: str) -> Template:
    """Parse a template. Raises `ValueError`, which says what is wrong and where."""
    return _Parser(text).template()


class _Parser:
    """Reads one template from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._segments: list[str | Wildcard] = []
        self._variables: list[Variable] = []

    def template(self) -> Template:
        self._expect("/")
        self._read_segments(within=False)
        verb = decode(self._read(_LITERAL, "a verb")) if self._accept(":") else ""
        if self._at < len(self._text):
            raise self._error("a verb ends a template" if verb else "a segment ends with / or :")
        if Wildcard.REST in self._segments[:-1]:
            raise ValueError(f"{self._text!r}: ** may only be the last segment")
        fields = [variable.field for variable in self._variables]
        if twice := {field for field in fields if fields.count(field) > 1}:
            raise ValueError(f"{self._text!r}: {', '.join(sorted(twice))} is there more than once")
        return Template(self._text, tuple(self._segments), verb, tuple(self._variables))

    def _read_segments(self, *, within: bool) -> None:
        self._read_segment(within=within)
        while self._accept("/"):
            self._read_segment(within=within)

    def _read_segment(self, *, within: bool) -> None:
        if self._accept("**"):
            self._segments.append(Wildcard.REST)
        elif self._accept("*"):
            self._segments.append(Wildcard.ONE)
        elif not self._accept("{"):
            self._segments.append(decode(self._read(_LITERAL, "a segment")))
        elif within:
            raise self._error("a variable cannot have another one in it")
        else:
            self._read_variable()

    def _read_variable(self) -> None:
        names = [self._read(_IDENT, "a field")]
        while self._accept("."):
            names.append(self._read(_IDENT, "a field"))
        start = len(self._segments)
        if self._accept("="):
            self._read_segments(within=True)
        else:
            self._segments.append(Wildcard.ONE)
        self._expect("}")
        end = None if self._segments[-1] is Wildcard.REST else len(self._segments)
        self._variables.append(Variable(".".join(names), start, end))

    def _accept(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        if found:
            self._at += len(token)
        return found

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise self._error(f"expected {token}")

    def _read(self, pattern: re.Pattern[str], what: str) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._error(f"expected {what}")
        self._at = match.end()
        return match[0]

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{self._text!r}: {what} at position {self._at}")
