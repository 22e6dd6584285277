"""Faults that are planted in a copy of the code: the tests that ought to catch each one do, and pass without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.proof.mutants.catalogue import MUTANTS
from tests.proof.mutants.trees import copied, mutated, run_tests

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(600)
_FAILED = 1
"""pytest's exit code when tests ran and one of them failed."""


def test_without_a_fault_the_tests_that_catch_them_pass() -> None:
    tests = sorted({test for mutant in MUTANTS.values() for test in mutant.caught_by})
    with copied() as tree:
        code, said = run_tests(tree, tests)
    assert code == 0, said


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_caught(name: str, record_property: Callable[[str, object], None]) -> None:
    mutant = MUTANTS[name]
    with mutated(mutant) as tree:
        outcomes = {test: run_tests(tree, [test]) for test in mutant.caught_by}
    survived = {test: said.splitlines()[-1:] for test, (code, said) in outcomes.items() if code != _FAILED}
    record_property("mutant", name)
    record_property("caught by", [test.rpartition("::")[2] for test in mutant.caught_by])
    assert not survived, f"{name}: {mutant.breaks}, and these tests do not notice: {survived}"
