"""What came of a run: a table for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from cli.chaos.books import state_of
from cli.chaos.exposure import open_work, was_open
from cli.chaos.plan import Kind
from cli.chaos.verdict import LATE, Tally, end_of, orders_made, why_unproven

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

    from cli.chaos.books import Books, Violation
    from cli.chaos.faults import Incident
    from cli.chaos.plan import Counts
    from cli.chaos.requests import Log
    from cli.chaos.sources import Event

CLEAN, VIOLATED, UNPROVEN = 0, 1, 3
"""Exit codes; 2 is for what somebody has to mend first."""
_MOST_SHOWN = 40
_UNDOING = ("PaymentRefunded", "InventoryReleased", "ShippingCancelled")


@dataclass(frozen=True, slots=True)
class Struck:
    """The faults of one kind that hit one process."""

    faults: int
    while_open: int
    """How many of them came while an order had work in it."""


@dataclass(slots=True)
class Report:
    """Everything that is worth to be known of a run."""

    settings: Mapping[str, Any]
    struck: dict[str, dict[str, Struck]] = field(default_factory=dict)
    """By process and kind."""
    failed: list[str] = field(default_factory=list)
    """Faults that did not come about, and why."""
    orders: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    unproven: str = ""

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.violations:
            return VIOLATED
        return UNPROVEN if self.unproven else CLEAN

    @property
    def verdict(self) -> str:
        """Say it in a line."""
        if self.violations:
            return f"{len(self.violations)} violations"
        return f"this proved nothing: {self.unproven}" if self.unproven else "no violation"

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        found = asdict(self)
        found["violations"] = [one._asdict() for one in self.violations]
        return found | {"verdict": self.verdict, "exit_code": self.exit_code}


@dataclass(frozen=True, slots=True)
class Course:
    """What was to happen in a run, and what did."""

    orders: int
    """That were to be accepted."""
    counts: Counts
    """The faults that were planned."""
    processes: Mapping[str, Sequence[str]]
    """What each process hosts."""
    incidents: Sequence[Incident]
    log: Log

    @property
    def came(self) -> list[Incident]:
        """The faults that have begun."""
        return [one for one in self.incidents if one.began]


def sum_up(report: Report, course: Course, books: Books | None, events: Sequence[Event]) -> None:
    """Count what happened, and decide whether it proves anything; without `books`, only what is known all the same."""
    log = course.log
    made = orders_made(log, books) if books else {}
    work = open_work(log, events, {number: group[0].order_id for number, group in made.items()})
    hit = [one for one in course.came if was_open(one, _hosted(course, one), work)]
    _count_faults(report, course, hit)
    report.answers = dict(Counter(one.code or "none" for one in log.requests))
    report.orders = {"sent": len(log.requests), "accepted": len(log.accepted), "unknown": len(log.unknown)}
    if books is None:
        return
    ours = {order.order_id: order for group in made.values() for order in group}
    undone = {one.about for one in events if one.type in _UNDOING}
    compensated = len(undone & {*log.accepted})
    report.orders |= {
        "unknown that were taken": sum(one.number in made for one in log.unknown),
        "compensated": compensated,
        "ended by the deadline": sum(end_of(order) == LATE for order in ours.values()),
        **dict(sorted(Counter(state_of(order).lower() for order in ours.values()).items())),
    }
    happened = Counter(one.type for one in {one.id: one for one in events}.values() if one.about in ours)
    report.events |= {
        **{name: happened[name] for name in _UNDOING},
        "published twice": len(events) - len({one.id for one in events}),
    }
    report.unproven = why_unproven(_tally(course, len(hit), compensated))


def _hosted(course: Course, incident: Incident) -> Sequence[str]:
    return course.processes.get(incident.fault.target, [incident.fault.target])


def _count_faults(report: Report, course: Course, hit: Iterable[Incident]) -> None:
    all_of, open_of = (Counter((one.fault.target, one.fault.kind) for one in some) for some in (course.came, hit))
    for name in course.processes:
        report.struck[name] = {
            kind.value: Struck(all_of[name, kind], open_of[name, kind]) for kind in Kind if all_of[name, kind]
        }
    report.failed = [f"{one.fault}: {one.failure}" for one in course.incidents if one.failure]


def _tally(course: Course, hits: int, compensated: int) -> Tally:
    good = [one.fault for one in course.came if not one.failure]
    killed = {fault.target for fault in good if fault.kind is Kind.KILL}
    enough = course.counts.kills >= len(course.processes)
    return Tally(
        planned=course.counts.total,
        failed=course.counts.total - len(good),
        spared=[name for name in course.processes if name not in killed] if enough else [],
        came=len(course.came),
        hits=hits,
        asked=course.orders,
        accepted=len(course.log.accepted),
        compensated=compensated,
    )


def show(report: Report, console: Console) -> None:
    """Print it."""
    console.print(_table(report))
    for title, found in (("orders", report.orders), ("answers", report.answers), ("events", report.events)):
        told = ", ".join(f"{what} {count}" for what, count in found.items())
        console.print(f"{title:8} {told}", markup=False, soft_wrap=True)
    console.print(
        "seconds  " + ", ".join(f"{what} {time:.1f}" for what, time in report.seconds.items()), soft_wrap=True
    )
    for failure in report.failed:
        console.print(f"did not come about: {failure}", style="yellow", markup=False)
    for violation in report.violations[:_MOST_SHOWN]:
        console.print(str(violation), style="red", markup=False, soft_wrap=True)
    if len(report.violations) > _MOST_SHOWN:
        console.print(f"and {len(report.violations) - _MOST_SHOWN} more; --json has all of them")
    colour = "green" if report.exit_code == CLEAN else "red"
    console.print(f"[bold {colour}]{escape(report.verdict)}[/]")


def _table(report: Report) -> Table:
    title = "faults that came while an order was open in the process / all"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0), show_footer=True)
    totals = {kind: [found[kind] for found in report.struck.values() if kind in found] for kind in Kind}
    table.add_column("process", "all")
    for kind in Kind:
        table.add_column(kind.value, _both(totals[kind]), justify="right")
    table.add_column("all", _both([one for found in totals.values() for one in found]), justify="right")
    for name, found in report.struck.items():
        cells = [_both([found[kind]]) if kind in found else "" for kind in Kind]
        table.add_row(name, *cells, _both(list(found.values())))
    return table


def _both(struck: Sequence[Struck]) -> str:
    faults = sum(one.faults for one in struck)
    return f"{sum(one.while_open for one in struck)}/{faults}" if faults else ""
