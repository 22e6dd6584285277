"""On what the figures were measured: they mean nothing without it."""

from __future__ import annotations

import os
import platform
import shlex
import sqlite3
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from weft.embedded import find_nats_server

if TYPE_CHECKING:
    from collections.abc import Sequence

_GIB = 2**30
_LOOK = 1.0


def describe_run(arguments: Sequence[str]) -> dict[str, Any]:
    """Return command, date and code of this run."""
    return {
        "command": shlex.join(["python", "-m", "bench", *arguments]),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "weft": f"{version('weft')} {_commit()}".strip(),
    }


def describe_machine(folder: Path) -> dict[str, Any]:
    """Return what the machine is; `folder` is where the data will be. Takes a second, to see how busy it is."""
    busy = psutil.cpu_times_percent(_LOOK)
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "data on": f"{_filesystem(folder)}, fsync {_fsync_seconds(folder) * 1000:.2f} ms",
        "before the run": f"{100 - busy.idle:.0f} % of the CPU busy",
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of what counts for the figures; PostgreSQL's is known once one runs."""
    said = subprocess.run([find_nats_server(), "--version"], capture_output=True, text=True, check=True).stdout
    packages = ("nats-py", "grpcio", "SQLAlchemy", "psycopg", "protobuf", "uvloop", "uvicorn")
    return {
        "nats-server": said.split()[-1].lstrip("v"),
        "SQLite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }


def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _filesystem(folder: Path) -> str:
    mounts = {Path(disk.mountpoint): disk.fstype for disk in psutil.disk_partitions(all=True)}
    return next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "an unknown file system")


def _fsync_seconds(folder: Path, times: int = 100) -> float:
    """Return what it takes to append 4 KiB durably, which every commit waits for."""
    path = folder / "fsync"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(took)
