"""What must hold before any test module is imported, and which tests stay together when several run at a time."""

from __future__ import annotations

import os

import pytest

# A gRPC that was told to survive forks starts a poller in each child, between fork and exec; there it finds its files
# closed, and now and then takes the child along (grpc/grpc#43055). The tests start many children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

_LONGEST = {"postgres": 0, "processes": 1, "one-process": 2}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep together what shares a system, or a file's fixtures: to start a system costs more than most tests."""
    item.add_marker(pytest.mark.xdist_group(_mode_of(item) or str(item.path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest in one piece, so that nobody waits for it at the end."""
    items.sort(key=lambda item: _LONGEST.get(_mode_of(item), len(_LONGEST)))


def _mode_of(item: pytest.Item) -> str:
    """Return the way in which the whole system runs for a test; empty for others."""
    parameters = getattr(item, "callspec", None)
    return "" if parameters is None else str(parameters.params.get("mode", ""))
