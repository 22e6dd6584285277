"""Puts a run into a Markdown file: its section `## A run` is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import describe_fact, row_of

if TYPE_CHECKING:
    from pathlib import Path

    from bench.report import Report, Section

_HEADING = "## A run\n"
_HEADER = "| figure | measured | target | | detail |\n|---|---|---|---|---|\n"


def has_place(path: Path) -> bool:
    """Tell whether a file is there, and has the section."""
    return path.is_file() and _HEADING in path.read_text()


def write_run(path: Path, report: Report) -> None:
    """Replace all from the section on, which is the last one."""
    before = path.read_text().partition(_HEADING)[0]
    facts = "".join(f"- {name}: {_escape(describe_fact(fact))}\n" for name, fact in report.facts.items())
    path.write_text(before + _HEADING + "\n" + facts + "".join(map(_section, report.sections)))


def _section(section: Section) -> str:
    rows = "".join(_row(row_of(figure)) for figure in section.figures)
    return f"\n**{section.name}**: {section.title}\n\n{_HEADER}{rows}"


def _row(row: tuple[str, ...]) -> str:
    what, value, unit, target, mark, detail = map(_escape, row)
    return f"| {what} | {value} {unit} | {target} | {mark} | {detail} |\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
