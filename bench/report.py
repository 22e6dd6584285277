"""Figures, what they ought to reach, and the table and the JSON that they are shown in."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PLAIN_WIDTH = 170
_COLOURS = {"reached": "green", "missed": "red"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach: at least `bound`, or less than it."""

    bound: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value >= self.bound if self.at_least else value < self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'under'} {self.bound:,.10g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `parts` is what it is made of, or what else was measured with it."""

    what: str
    value: float
    unit: str
    target: Target | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it reached its target; None if it has none."""
        return None if self.target is None else self.target.met_by(self.value)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        target = None if self.target is None else {"bound": self.target.bound, "at_least": self.target.at_least}
        return {
            "what": self.what,
            "value": round(self.value, 4),
            "unit": self.unit,
            "target": target,
            "met": self.met,
            "parts": {name: round(part, 4) for name, part in self.parts.items()},
            "note": self.note,
        }


@dataclass(slots=True)
class Section:
    """What one part of the benchmark found; `broke` says why it did not get to its end."""

    name: str
    title: str
    figures: Sequence[Figure] = ()
    broke: str = ""


@dataclass(slots=True)
class Report:
    """One run of the benchmark."""

    facts: Mapping[str, Any]
    """Command, date, machine and versions, in the order in which they are shown."""
    sections: Sequence[Section]

    @property
    def whole(self) -> bool:
        """Whether every section got to its end."""
        return not any(section.broke for section in self.sections)

    def write_json(self, path: Path) -> None:
        """Write it for programs."""
        sections = [
            {
                "name": section.name,
                "title": section.title,
                "broke": section.broke,
                "figures": [figure.as_json() for figure in section.figures],
            }
            for section in self.sections
        ]
        document = {**self.facts, "sections": sections}
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def print(self) -> None:
        """Print it as one table; as plain text where there is no terminal."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_PLAIN_WIDTH, color_system=None)
        for name, fact in self.facts.items():
            console.print(f"{name:<9} {describe_fact(fact)}", markup=False, soft_wrap=True)
        console.print(self._table())

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_edge=False)
        for heading in ("", "measured", "", "target", "", "detail"):
            right = heading in ("measured", "target")
            table.add_column(heading, justify="right" if right else "left", no_wrap=heading not in ("", "detail"))
        for section in self.sections:
            table.add_row()
            table.add_row(f"[bold]{section.title}[/]", "", "", "", "", f"[red]{section.broke}[/]")
            for figure in section.figures:
                what, value, unit, target, mark, told = row_of(figure)
                table.add_row(f"  {what}", value, unit, target, f"[{_COLOURS[mark]}]{mark}[/]" if mark else "", told)
        return table


def describe_fact(fact: Any) -> str:
    """Return what a run says of itself, as text."""
    return ", ".join(f"{key} {value}" for key, value in fact.items()) if isinstance(fact, dict) else str(fact)


def row_of(figure: Figure) -> tuple[str, ...]:
    """Return a figure as text: what, value, unit, target, whether it was reached, and details."""
    mark = "" if figure.met is None else "reached" if figure.met else "missed"
    parts = ", ".join(f"{name} {number(value)}" for name, value in figure.parts.items())
    told = "; ".join(filter(None, (parts, figure.note)))
    target = "" if figure.target is None else str(figure.target)
    return figure.what, number(figure.value), figure.unit, target, mark, told


def number(value: float) -> str:
    """Return a value with three digits that count, or all those before the point."""
    if not math.isfinite(value):
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that `percent` per cent of the values do not exceed; infinity if there is none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.inf
