"""What the docs name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_FILE = re.compile(r"`((?:tests|weft|services|gateway|sandbox|cli|tools|deploy|docs|proto|gen)/[\w./-]+\.\w+)`")
_MADE = re.compile(r"^`([\w/.-]+)`\n\n```", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_file_and_page_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    missing = [f"{file}::{name}" for file, name in _TEST.findall(text) if not defines(ROOT / file, name)]
    made = set(_MADE.findall(text))  # the reader writes these, from the text that follows
    missing += [file for file in _FILE.findall(text) if not (ROOT / file).exists() and file not in made]
    missing += [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def defines(file: Path, name: str) -> bool:
    return file.exists() and bool(re.search(rf"^(?:(?:async )?def {name}\(|{name} = )", file.read_text(), re.MULTILINE))


def test_every_test_that_the_guarantees_name_is_named_with_its_file_and_is_a_test() -> None:
    text = (ROOT / "docs/guarantees.md").read_text()
    named = _TEST.findall(text)
    assert set(re.findall(r"\btest_\w+\b(?!\.py)", text)) == {name for _, name in named}
    missing = [f"{file}::{name}" for file, name in named if not is_test(ROOT / file, name)]
    assert not missing


def is_test(file: Path, name: str) -> bool:
    return file.exists() and bool(re.search(rf"^(?:async )?def {name}\(", file.read_text(), re.MULTILINE))


def test_every_guarantee_names_its_tests() -> None:
    _, *sections = (ROOT / "docs/guarantees.md").read_text().partition("\n## Planted faults")[0].split("\n## ")
    silent = [section.partition("\n")[0] for section in sections if not _TEST.search(section)]
    assert not silent


def test_the_page_about_the_flow_names_the_tests_of_every_outcome() -> None:
    named = {name for _, name in _TEST.findall((ROOT / "docs/flow.md").read_text())}
    outcomes = re.findall(r"^async def (test_\w+)", (ROOT / "tests/flow/test_outcomes.py").read_text(), re.MULTILINE)
    assert not set(outcomes) - named
