"""The `weft` command on the whole system: up, demo, orders, refusals, and down."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")]), "COLUMNS": "160"}
OUTCOMES = (
    r"all is well +CONFIRMED +completed +2 x sample-mug +prepared +\d+ ms\n",
    r"a declined card +CANCELLED \(payment declined\) +failed +0( \(released\))? +(none|cancelled) +\d+ ms\n",
    r"out of stock +CANCELLED \(out of stock\) +(refunded|voided) +0 +(none|cancelled) +\d+ ms\n",
)


class Weft:
    """A data folder, and the `weft` command on it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: str, expect: int | None = 0) -> str:
        """Run a command; return what it printed. `expect` is its exit code, None if that does not matter."""
        command = [sys.executable, "-m", "cli", *arguments, "--data", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)
        assert expect in (None, done.returncode), done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def up(self, *options: str, until: str) -> None:
        """Start the system and wait until it has printed `until`."""
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli", "up", "--data", str(self.data), *options],
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
            )
        eventually(lambda: until in self.said or self.ended)
        assert not self.ended, self.said

    def down(self) -> int:
        """Stop it as Ctrl-C does; return its exit code."""
        assert self._process is not None
        if not self.ended:
            self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def said(self) -> str:
        return self._output.read_text()

    def pid(self, name: str) -> int:
        run = json.loads((self.data / "run.json").read_text())
        return next(int(process["pid"]) for process in run["processes"] if process["name"] == name)


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def weft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weft]:
    """A running system, a process for each service, that has shown its demo."""
    system = Weft(tmp_path_factory.mktemp("weft"))
    try:
        system.up("--demo", until="serving; Ctrl-C")
        yield system
    finally:
        system.down()


@pytest.fixture(scope="module")
def stocked(weft: Weft) -> str:
    """The sku of a product of which there is plenty."""
    weft("product", "add", "mug", "--price", "12.50 EUR", "--title", "A mug")
    eventually(lambda: "NOT_FOUND" not in weft("stock", "show", "mug", expect=None))
    weft("stock", "add", "mug", "1000")
    return "mug"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_demo_ends_with_three_outcomes(weft: Weft, outcome: str) -> None:
    assert re.search(outcome, weft.said), weft.said
    assert "unexpected" not in weft.said


def test_an_order_is_followed_to_its_confirmation_and_shown(weft: Weft, stocked: str) -> None:
    order = weft.json("order", "place", "--sku", f"{stocked}:2", "--user", "ann", "--wait")
    assert order["state"] == "ORDER_STATE_CONFIRMED"
    assert order["total"] == {"currencyCode": "EUR", "units": "25", "nanos": 0}
    shown = weft("order", "show", order["orderId"])
    assert re.search(r"state +CONFIRMED", shown)
    assert re.search(r"payment +completed", shown)
    assert re.search(r"shipment +prepared", shown)
    listed = weft.json("order", "list", "--user", "ann", "--state", "confirmed")["orders"]
    assert [each["orderId"] for each in listed] == [order["orderId"]]


def test_an_order_that_is_cancelled_ends_the_command_with_1(weft: Weft, stocked: str) -> None:
    told = weft("order", "place", "--sku", stocked, "--token", "tok_declined", "--wait", expect=1)
    assert "CANCELLED (payment declined)" in told


def test_what_a_service_refuses_is_told_by_field(weft: Weft, stocked: str) -> None:
    told = weft("order", "place", "--sku", "nothing-like-it:0", "--sku", stocked, expect=1)
    assert told.startswith("weft: INVALID_ARGUMENT: not accepted\n")
    assert "  lines[0]." in told
    assert "weft: NOT_FOUND: " in weft("order", "show", "nobody-s", expect=1)


def test_a_killed_service_is_named_and_comes_back(weft: Weft, stocked: str) -> None:
    killed = weft.pid("order")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "order was restarted and is ready" in weft.said)
    assert f"order (pid {killed}) was killed by SIGKILL" in weft.said
    assert weft.pid("order") != killed
    assert weft.json("order", "place", "--sku", stocked, "--wait")["state"] == "ORDER_STATE_CONFIRMED"


def test_a_second_up_is_refused_in_one_line(weft: Weft) -> None:
    told = weft("up", expect=2)
    assert re.fullmatch(r"weft: .* is in use by another `weft up` \(pid \d+\)\.\n", told)


def test_a_newer_data_folder_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    newer = Weft(tmp_path)
    newer.data.mkdir()
    with closing(sqlite3.connect(newer.data / "order.db")) as database:
        database.execute("CREATE TABLE service_schema (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO service_schema VALUES ('9999')")
        database.commit()
    *_, last = newer("up", expect=2).splitlines()
    assert re.fullmatch(r"weft: order: .*newer than this program.*update.*", last)


def test_what_was_ordered_is_still_there_when_one_process_goes_on(weft: Weft, stocked: str) -> None:
    before = weft.json("order", "list", "--limit", "1000")["orders"]
    assert weft.down() == 0
    assert "nothing runs" in weft("order", "list", expect=2)
    weft.up("--demo", "--one-process", until="serving; Ctrl-C")
    for outcome in OUTCOMES:
        assert re.search(outcome, weft.said), weft.said
    assert weft.pid("order") == weft.pid("shipping")
    after = weft.json("order", "list", "--limit", "1000")["orders"]
    assert {order["orderId"] for order in before} < {order["orderId"] for order in after}
    assert "stopped (pid " in weft("down")
    assert weft.wait() == 0
    assert "nothing runs" in weft("down")
