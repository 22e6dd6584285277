"""What the proofs tell at their end: which planted fault was caught by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each planted fault that was tried."""
    tried = [
        (dict(report.user_properties), outcome)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    mutants = [(found["mutant"], found["caught by"], outcome) for found, outcome in tried if "mutant" in found]
    if mutants:
        terminalreporter.section("planted faults")
    for name, tests, outcome in mutants:
        verdict = "caught by" if outcome == "passed" else "NOT CAUGHT by all of"
        terminalreporter.write_line(f"{name:<46} {verdict} {', '.join(tests)}")
