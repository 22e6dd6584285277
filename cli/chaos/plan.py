"""Which faults hit a system, and when: the same seed makes the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

_APART = 3
_PAUSE = (1.0, 15.0)
_CUT = (0.5, 5.0)
_OUTAGE = (3.0, 10.0)
_LEAD = 0.12


class Kind(StrEnum):
    """What is done to a process."""

    KILL = "SIGKILL"
    PAUSE = "SIGSTOP"
    RESTART = "restart"
    """It is asked to end in order, and started again."""
    CUT = "cut"
    """A connection that it opens to another one is cut."""
    OUTAGE = "outage"
    """It answers that it cannot serve now."""


class Link(NamedTuple):
    """Connections that one process opens to a port of another one."""

    source: str
    target: str
    port: str

    def __str__(self) -> str:
        return f"{self.source}>{self.target}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """When it is due, in seconds after the first order."""
    kind: Kind
    target: str
    """The process."""
    seconds: float = 0.0
    """How long it lasts; 0 for what is over at once."""
    link: Link | None = None
    """What is cut."""
    silent: bool = False
    """Of a cut: connections stay, and nothing comes through. Of an outage: what is asked is done, and not answered."""
    lead: float = 0.0
    """Seconds between the orders that are placed just before it, and itself."""

    def __str__(self) -> str:
        where = f" to {self.link.target}{' (silent)' if self.silent else ''}" if self.link else ""
        return f"{self.kind} {self.target}{where}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many faults there are of each kind."""

    kills: int
    pauses: int
    cuts: int
    outages: int
    restarts: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.kills + self.pauses + self.cuts + self.outages + self.restarts


@dataclass(frozen=True, slots=True)
class Stage:
    """What can be hit: `processes`, the `links` between them, the `broker` and the payment `provider`."""

    processes: Sequence[str]
    links: Sequence[Link]
    broker: str
    provider: str


def make_plan(seed: int, counts: Counts, stage: Stage, seconds: float, longest_pause: float = _PAUSE[1]) -> list[Fault]:
    """Return the faults of a run whose load takes `seconds`, in the order in which they are due.

    Every process is hit as often as any other by kills, pauses and cuts, give or take one. Cuts need `links`.
    """
    dice = random.Random(seed)
    faults = [
        *(Fault(0, Kind.KILL, name) for name in _deal(dice, stage.processes, counts.kills)),
        *(
            Fault(0, Kind.PAUSE, name, dice.uniform(_PAUSE[0], longest_pause))
            for name in _deal(dice, stage.processes, counts.pauses)
        ),
        *(
            Fault(0, Kind.CUT, link.source, dice.uniform(*_CUT), link, silent=dice.random() < 0.5)
            for link in _deal(dice, stage.links, counts.cuts)
        ),
        *(
            Fault(0, Kind.OUTAGE, stage.provider, dice.uniform(*_OUTAGE), silent=dice.random() < 0.5)
            for _ in range(counts.outages)
        ),
        *(Fault(0, Kind.RESTART, stage.broker) for _ in range(counts.restarts)),
    ]
    dice.shuffle(faults)
    gap = seconds / max(len(faults), 1)
    return [
        replace(fault, at=(number + dice.random()) * gap, lead=dice.uniform(0, _LEAD))
        for number, fault in enumerate(_spread(faults))
    ]


def _deal(dice: random.Random, things: Sequence[T], count: int) -> Iterator[T]:
    """Yield so many, each once before any comes again."""
    while count > 0 and things:
        for thing in dice.sample(things, min(count, len(things))):
            yield thing
            count -= 1


def _spread(faults: list[Fault]) -> list[Fault]:
    """Return the same faults, so that the ones that hit the same process are apart where that is possible."""
    left, spread = list(faults), list[Fault]()
    while left:
        recent = {fault.target for fault in spread[-_APART:]}
        chosen = next((fault for fault in left if fault.target not in recent), left[0])
        left.remove(chosen)
        spread.append(chosen)
    return spread
