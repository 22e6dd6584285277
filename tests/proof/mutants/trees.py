"""Copies of the code with a fault planted, for as long as a `with`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.proof.mutants.catalogue import Mutant

ROOT = Path(__file__).resolve().parents[3]
_PARTS = ("weft", "services", "gateway", "sandbox", "cli", "gen", "tests", "deploy", "pyproject.toml")
_PATIENCE = 300


def plant(mutant: Mutant, tree: Path) -> None:
    """Plant a mutant's fault in `tree`. Raises `ValueError` if the code is not what the mutant was made for."""
    for edit in mutant.edits:
        file = tree / edit.file
        text = file.read_text()
        found = text.count(edit.old)
        if found != 1:
            raise ValueError(f"{mutant.name}: {edit.file} has {found} times, and should have once: {edit.old!r}")
        file.write_text(text.replace(edit.old, edit.new))


@contextmanager
def copied() -> Iterator[Path]:
    """Have a copy of the code within the `with`."""
    tree = Path(tempfile.mkdtemp(prefix="weft-mutant-"))
    tree.chmod(0o755)  # PostgreSQL may have to run as another user
    try:
        for part in _PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, tree)
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)


@contextmanager
def mutated(mutant: Mutant) -> Iterator[Path]:
    """Have a copy of the code with a fault within the `with`."""
    with copied() as tree:
        plant(mutant, tree)
        yield tree


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of tests that were run."""

    code: int
    """pytest's exit code."""
    failures: tuple[str, ...]
    """What each test said that failed itself: the type of the exception, unless it was a bare `assert`, and its text.
    Not among them are tests whose preparation or cleaning up failed."""
    said: str
    """All that pytest printed."""


def run_tests(tree: Path, tests: Sequence[str]) -> Outcome:
    """Run tests of a tree on its own code, up to the first that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "PYTEST_"))}
    path, report = os.pathsep.join([str(tree), str(tree / "gen")]), tree / "report.xml"
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={report}"]
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=tree,
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, _failures(report), done.stdout + done.stderr)


def _failures(report: Path) -> tuple[str, ...]:
    """Read them from a JUnit report, where what failed outside of a test's own code is an `error`."""
    if not report.exists():
        return ()
    return tuple(failure.get("message", "") for failure in ElementTree.parse(report).iter("failure"))
