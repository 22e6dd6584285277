"""Crash points: off unless a test asks for them, and called after what passes through."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from weft import crash_points
from weft.crash_points import CrashPoints, read_armed, write_armed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Mechanism:
    """Something with functions that pass through a point."""

    def __init__(self, name: str = "") -> None:
        if name:
            self.name = name

    def _act(self, number: int = 0) -> None:
        """Do nothing."""

    def within(self) -> Callable[[], None]:
        return lambda: self._act()


def place_order() -> None:
    """Do nothing."""


def test_a_process_has_no_crash_points_unless_its_environment_names_a_folder() -> None:
    assert crash_points._points is None


def test_a_point_is_called_after_what_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_points, "_points", CrashPoints(tmp_path, "order-1"))
    nameless = Mechanism()
    passing = [place_order, Mechanism("order-from-payment")._act, partial(nameless._act, 1), nameless.within()]
    crash_points.reach("before", "commit", *passing)
    crash_points.reach("after", "ack", "order-from-payment")
    assert (tmp_path / "order-1.seen").read_text().splitlines() == [
        "commit of place_order: before",
        "commit of order-from-payment.act: before",
        "commit of Mechanism.act: before",
        "commit of Mechanism.within: before",
        "ack of order-from-payment: after",
    ]


def test_the_process_dies_at_the_visit_that_is_armed_and_disarms_it_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(pid: int, signal: int) -> None:
        raise Died

    monkeypatch.setattr("os.kill", die)
    points = CrashPoints(tmp_path, "order-1")
    armed = tmp_path / "order-1.armed"
    points.visit("a")
    write_armed(armed, {"a": 2, "b": 1})
    points.visit("a")
    with pytest.raises(Died):
        points.visit("a")
    assert read_armed(armed) == {"b": 1}
