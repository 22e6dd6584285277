"""A short `weft chaos`: the long ones are `make chaos`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cli.data import DataDirectory
from tests.flow.systems import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SHORT = "--orders=80 --kills=9 --pauses=1 --cuts=2 --outages=0 --restarts=0 --longest-pause=2 --seed=5"


@pytest.mark.timeout(180)
def test_a_system_that_is_broken_on_purpose_while_customers_order_loses_and_doubles_nothing(tmp_path: Path) -> None:
    data, told = tmp_path / "data", tmp_path / "report.json"
    path = os.pathsep.join([str(ROOT), str(ROOT / "gen")])
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "cli", "chaos", f"--data={data}", f"--json={told}", *SHORT.split()],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report: dict[str, Any] = json.loads(told.read_text())
    assert report["violations"] == []
    assert report["failed"] == []
    assert sum(one["faults"] for kinds in report["struck"].values() for one in kinds.values()) == 12
    assert report["orders"]["accepted"] >= 60
    assert report["verdict"] in ran.stdout
    assert not DataDirectory.at(data).processes_run()
