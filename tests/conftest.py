"""What must hold before any test module is imported, and which tests stay together when several run at a time."""

from __future__ import annotations

import os

import pytest

# A gRPC that was told to survive forks starts a poller in each child, between fork and exec; there it finds its files
# closed, and now and then takes the child along (grpc/grpc#43055). The tests start many children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep together what shares a system, or a file's fixtures: to start a system costs more than most tests."""
    ways = getattr(item, "callspec", None)
    mode = ways.params.get("mode") if ways is not None else None
    item.add_marker(pytest.mark.xdist_group(mode or str(item.path)))
