"""Asks several services at once what an operator wants to know; one that is away keeps nobody from the rest."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from cli.errors import OPERATOR, REFUSED, CallFailed, Problem
from cli.rest import at
from cli.system import SERVICES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

T = TypeVar("T")

GLANCE = 3.0
"""Seconds that a service may take to say something about itself."""
WORK = 30.0
"""Seconds that it may take to do something."""
AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "UNIMPLEMENTED"}
"""Codes with which a call fails that are the fault of the one service."""


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What services answered, and why others did not."""

    found: Mapping[str, T]
    away: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """That of a command that shows them: 1 if some are missing."""
        return REFUSED if self.away else 0


async def ask(services: Iterable[str], question: Callable[[str], Awaitable[T]]) -> Answers[T]:
    """Ask each of the services at once. Raises `Problem` for what is no fault of a service's."""
    names = list(services)
    answers = await asyncio.gather(*(_ask_one(name, question) for name in names))
    found = {name: one[0] for name, one in zip(names, answers, strict=True) if isinstance(one, tuple)}
    away = {name: one for name, one in zip(names, answers, strict=True) if isinstance(one, str)}
    return Answers(found, away)


async def _ask_one(service: str, question: Callable[[str], Awaitable[T]]) -> tuple[T] | str:
    try:
        return (await question(service),)
    except CallFailed as failed:
        if failed.code not in AWAY or failed.exit_code == OPERATOR:
            raise
        return str(failed).partition("\n")[0]


def warn_of(away: Mapping[str, str]) -> None:
    """Name on the standard error stream which services are away."""
    for service, why in away.items():
        print(f"weft: {service} is away, and what it has is missing: {why}", file=sys.stderr)


def path_of(service: str, template: str, *values: str) -> str:
    """Return the path of an operation of a service's; `values` take the place of each `{}`."""
    return at("/v1/operations/{}" + template, service, *values)


def check_service(service: str) -> str:
    """Return the name of a service. Raises `Problem` for one that there is not."""
    if service not in SERVICES:
        raise Problem(f"there is no service {service!r}: there are {', '.join(SERVICES)}")
    return service


def services_of(service: str) -> tuple[str, ...]:
    """Return the service that is named, or all if none is."""
    return (check_service(service),) if service else SERVICES


def service_of(consumer: str) -> str:
    """Return the service that a consumer, or a letter, belongs to: its name begins with the service's."""
    for service in SERVICES:
        if consumer.startswith(f"{service}-"):
            return service
    raise Problem(
        f"{consumer!r} names no service: it looks like payment-from-order, a letter like payment-from-order.7"
    )
