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
"""pytest's exit code when tests ran and one of them failed, or its preparation did."""


def test_without_a_fault_the_tests_that_catch_them_pass() -> None:
    tests = sorted({catch.test for mutant in MUTANTS.values() for catch in mutant.caught_by})
    with copied() as tree:
        outcome = run_tests(tree, tests)
    assert outcome.code == 0, outcome.said


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_caught(name: str, record_property: Callable[[str, object], None]) -> None:
    """A test that cannot begin, or fails over something else, has caught nothing."""
    mutant = MUTANTS[name]
    with mutated(mutant) as tree:
        outcomes = {catch: run_tests(tree, [catch.test]) for catch in mutant.caught_by}
    survived = {
        catch.test: outcome.failures or outcome.said.splitlines()[-1:]
        for catch, outcome in outcomes.items()
        if outcome.code != _FAILED or not any(catch.says in failure for failure in outcome.failures)
    }
    record_property("mutant", name)
    record_property("caught by", [catch.test.rpartition("::")[2] for catch in mutant.caught_by])
    assert not survived, f"{name}: {mutant.breaks}, and these tests do not notice, or something else: {survived}"
