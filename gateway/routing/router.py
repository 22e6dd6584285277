"""From a path and a method to a route: a trie by segments, so that the number of routes costs nothing.

The most specific route wins, whatever the order of declaration: from left to right, a literal goes before `*`, and
`*` before `**`. A path whose end, from its last colon on, is a verb that some route has there belongs to that
verb; any other colon is part of its segment. Of the routes that match, the first with the method is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.routing.template import Wildcard, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.routing.template import Template

T = TypeVar("T")

ANY = "*"
"""The method of a route that takes every method that no other route of its path takes."""


class Conflict(Exception):
    """Two routes match the same paths with the same method; `other` is the one that was there."""

    def __init__(self, other: object) -> None:
        self.other = other
        super().__init__(f"conflicts with {other}")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A route, and the segments of the path as the client wrote them, without the verb."""

    route: T
    segments: Sequence[str]


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """There are routes for the path, but for other methods: these."""

    allowed: tuple[str, ...]


class _Node(Generic[T]):
    __slots__ = ("ends", "literals", "one", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.one: _Node[T] | None = None
        self.rest: _Node[T] | None = None
        self.ends: dict[str, dict[str, T]] = {}
        """The routes that end here, by verb and method."""


class Router(Generic[T]):
    """Finds routes."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, method: str, template: Template, route: T) -> None:
        """Add a route. Raises `Conflict` if another one has its method and matches the same paths."""
        node = self._root
        for segment in template.segments:
            if segment is Wildcard.ONE:
                node.one = node = node.one or _Node()
            elif segment is Wildcard.REST:
                node.rest = node = node.rest or _Node()
            else:
                node = node.literals.setdefault(str(segment), _Node())
        methods = node.ends.setdefault(template.verb, {})
        if method in methods:
            raise Conflict(methods[method])
        methods[method] = route

    def find(self, method: str, path: str) -> Found[T] | WrongMethod | None:
        """Find the route for a path as the client wrote it; None if there is none whatever the method.

        HEAD goes where GET goes, if it has no route of its own. Raises `ValueError` if the path is not
        percent-encoded UTF-8.
        """
        if not path.startswith("/"):  # As in OPTIONS *.
            return None
        written = path[1:].split("/")
        segments = [decode(one) for one in written] if "%" in path else written
        head, colon, verb = written[-1].rpartition(":")
        if colon:
            with_verb = [*written[:-1], head]
            found = self._choose(method, [*segments[:-1], decode(head)], decode(verb), with_verb)
            if found is not None:
                return found
        return self._choose(method, segments, "", written)

    def _choose(
        self, method: str, segments: Sequence[str], verb: str, written: Sequence[str]
    ) -> Found[T] | WrongMethod | None:
        allowed: dict[str, None] = {}
        for methods in _matches(self._root, segments, 0, verb):
            route = methods.get(method)
            if route is None and method == "HEAD":
                route = methods.get("GET")
            if route is None:
                route = methods.get(ANY)
            if route is not None:
                return Found(route, written)
            allowed.update(dict.fromkeys(methods))
        if not allowed:
            return None
        if "GET" in allowed:
            allowed["HEAD"] = None
        return WrongMethod(tuple(sorted(allowed)))


def _matches(node: _Node[T], segments: Sequence[str], at: int, verb: str) -> Iterator[dict[str, T]]:
    """Give the ends that a path reaches, most specific first."""
    if at == len(segments):
        if verb in node.ends:
            yield node.ends[verb]
    else:
        segment = segments[at]
        if (exact := node.literals.get(segment)) is not None:
            yield from _matches(exact, segments, at + 1, verb)
        if node.one is not None and segment:
            yield from _matches(node.one, segments, at + 1, verb)
    if node.rest is not None and verb in node.rest.ends:
        yield node.rest.ends[verb]
