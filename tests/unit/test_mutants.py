"""The planted faults still fit the code, and the page about the guarantees tells of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.proof.mutants.catalogue import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/guarantees.md"
_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_fits_the_code(name: str) -> None:
    for edit in MUTANTS[name].edits:
        found = (ROOT / edit.file).read_text().count(edit.old)
        assert found == 1, f"{edit.file} has {found} times, and should have once: {edit.old!r}"


@pytest.mark.parametrize("name", MUTANTS)
def test_what_catches_a_fault_is_there(name: str) -> None:
    for catch in MUTANTS[name].caught_by:
        file, _, function = catch.test.partition("::")
        assert re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(), re.MULTILINE), catch.test
        assert catch.says


def test_the_page_lists_every_fault_with_what_catches_it() -> None:
    rows = {row[0].strip(): row for row in _ROW.findall(PAGE.read_text())}
    for name, mutant in MUTANTS.items():
        assert name in rows, f"{PAGE.name} does not list {name!r}"
        assert rows[name][1].strip() == mutant.breaks
        assert set(re.findall(r"tests/[\w/]+\.py::\w+", rows[name][2])) == {one.test for one in mutant.caught_by}
    assert len(MUTANTS) >= 12
