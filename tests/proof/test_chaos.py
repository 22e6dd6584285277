"""`weft chaos` when it is interrupted, and against a system that was there before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli.data import DataDirectory
from tests.flow.systems import ROOT, WholeSystem
from weft.testing import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)
PATIENCE = 120.0


def chaos(output: Path, *options: str) -> subprocess.Popen[bytes]:
    """Begin a `weft chaos`, whose output goes to a file."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "gen")])
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "chaos", *options],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


async def test_an_interrupted_run_lets_everything_go_on_and_ends_what_it_started(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "output"
    running = chaos(output, f"--data={data}", "--orders=200", "--kills=0", "--pauses=8", "--cuts=0", "--outages=0")
    try:
        await eventually(lambda: "s  SIGSTOP" in output.read_text(), PATIENCE, "a process stands still")
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 130, output.read_text()
    finally:
        running.kill()
        running.wait()
    assert "everything is healed" in output.read_text()
    assert not DataDirectory.at(data).processes_run()


async def test_a_system_that_runs_is_broken_by_name_and_goes_on_afterwards(tmp_path: Path) -> None:
    system, output = WholeSystem(tmp_path, one_process=True), tmp_path / "chaos"
    try:
        await system.start()
        before = system.pid("order")
        options = ["--orders=40", "--kills=3", "--pauses=1", "--outages=1", "--restarts=1", "--longest-pause=2"]
        running = chaos(output, f"--attach={system.data}", *options)
        try:
            assert running.wait(PATIENCE) in (0, 3), output.read_text()  # three processes: few orders are accepted
        finally:
            running.kill()
            running.wait()
        assert system.pid("order") != before
        await system.all_ready()
    finally:
        system.stop()
