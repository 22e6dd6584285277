"""What must hold before any test module is imported, and which tests stay together when several run at a time."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# A gRPC that was told to survive forks starts a poller in each child, between fork and exec; there it finds its files
# closed, and now and then takes the child along (grpc/grpc#43055). The tests start many children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

_LONGEST = {"postgres": 0, "processes": 1, "one-process": 2}
_MODE = re.compile(rf"tests/flow/.*\[(?:.*-)?({'|'.join(_LONGEST)})(?:-.*)?\]")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest in one piece, so that nobody waits for it at the end."""
    items.sort(key=lambda item: _LONGEST.get(_group_of(item.nodeid), len(_LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Keep together what shares a system, or a file's fixtures: to start a system costs more than most tests.

    pytest-xdist has groups for that, which do nothing under pytest 9.2: ids can no longer be changed.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid)

    return Together(config, log)


def _group_of(nodeid: str) -> str:
    """Return the way in which the whole system runs for a test, or else the test's file."""
    mode = _MODE.match(nodeid)
    return mode[1] if mode else nodeid.partition("::")[0]
