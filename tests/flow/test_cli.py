"""The `weft` command on the whole system: up, demo, accounts, orders, refusals, and down."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")]),
    "COLUMNS": "160",
    "WEFT_GATEWAY": "",
    "WEFT_TOKEN": "",
}
OUTCOMES = (
    r"all is well +CONFIRMED +completed +2 x sample-mug +prepared +\d+ ms\n",
    r"a declined card +CANCELLED \(payment declined\) +failed +0( \(released\))? +(none|cancelled) +\d+ ms\n",
    r"out of stock +CANCELLED \(out of stock\) +(refunded|voided) +0 +(none|cancelled) +\d+ ms\n",
)


class Weft:
    """A data folder, and the `weft` command on it."""

    def __init__(self, folder: Path, person: str = "owner") -> None:
        self.data = folder / "data"
        self._folder = folder
        # Whoever has sessions of their own is another person.
        self._environment = {**ENVIRONMENT, "XDG_STATE_HOME": str(folder / person)}
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: str, expect: int = 0, stdin: str = "") -> str:
        """Run a command, which ends with the exit code `expect`; return what it printed."""
        done = self.attempt(*arguments, stdin=stdin)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def attempt(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command, however it ends."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments, "--data", str(self.data)],
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command that takes its time."""
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments, "--data", str(self.data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )

    def person(self, name: str) -> Weft:
        """Return the same system for somebody else."""
        return Weft(self._folder, name)

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def up(self, *options: str, until: str) -> None:
        """Start the system and wait until it has printed `until`."""
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli", "up", "--data", str(self.data), "--gateway-port", "0", *options],
                stdout=output,
                stderr=output,
                env=self._environment,
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
        return next(int(process["pid"]) for process in self._run["processes"] if process["name"] == name)

    @property
    def gateway(self) -> str:
        url: str = self._run["gateway"]
        return url

    @property
    def _run(self) -> Any:
        return json.loads((self.data / "run.json").read_text())


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
    weft("product", "add", "tee", "--price", "12.50 EUR", "--title", "A tee")
    weft("stock", "add", "tee", "1000")
    return "tee"


@pytest.fixture(scope="module")
def ann(weft: Weft) -> Weft:
    """The system for ann, a customer with an address."""
    ann = weft.person("ann")
    options = ("--register", "--name", "Ann", "--address", "1 Street, 8001 Zurich, CH", "--password-stdin")
    ann("login", "ann@weft.example", *options, stdin="ann's password")
    return ann


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_demo_ends_with_three_outcomes(weft: Weft, outcome: str) -> None:
    assert re.search(outcome, weft.said), weft.said
    assert "unexpected" not in weft.said


def test_the_first_order_in_the_readme_works_word_for_word(weft: Weft) -> None:
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^\.venv/bin/weft ((?:product|stock|order) .*)$", readme, re.MULTILINE)
    assert any(command.startswith("order place") for command in commands)
    for command in commands:
        declined = "tok_declined" in command and "--wait" in command
        weft(*shlex.split(command), expect=1 if declined else 0)


def test_an_order_is_followed_to_its_confirmation_and_shown(ann: Weft, stocked: str) -> None:
    order = ann.json("order", "place", "--sku", f"{stocked}:2", "--wait")
    assert order["state"] == "ORDER_STATE_CONFIRMED"
    assert order["shipTo"]["regionCode"] == "CH"
    assert order["total"]["units"] == "25"
    shown = ann("order", "show", order["orderId"])
    assert re.search(r"state +CONFIRMED", shown)
    assert re.search(r"payment +completed", shown)
    assert re.search(r"shipment +prepared", shown)
    assert re.search(r"ship to +1 Street, 8001 Zurich, CH", shown)
    listed = ann.json("order", "list", "--state", "confirmed")["orders"]
    assert order["orderId"] in [each["orderId"] for each in listed]


def test_a_customer_sees_only_what_is_theirs(weft: Weft, ann: Weft, stocked: str) -> None:
    theirs = ann.json("order", "place", "--sku", stocked, "--wait")
    others = weft.json("order", "place", "--sku", stocked, "--wait")
    assert {order["userId"] for order in ann.json("order", "list")["orders"]} == {theirs["userId"]}
    assert "weft: NOT_FOUND: " in ann("order", "show", others["orderId"], expect=1)
    assert "weft: NOT_FOUND: " in ann("order", "cancel", others["orderId"], expect=1)
    assert "CANCEL" in ann("order", "cancel", theirs["orderId"])
    seen = weft.json("order", "list", "--user", theirs["userId"])["orders"]
    assert theirs["orderId"] in [order["orderId"] for order in seen]


def test_a_customer_may_not_do_what_is_an_admins(ann: Weft, stocked: str) -> None:
    told = ann("stock", "add", stocked, "1", expect=1)
    assert told.startswith("weft: PERMISSION_DENIED: ")
    assert "ann@weft.example asked" in told


def test_an_admin_sends_an_order_on_its_way_to_its_end_and_its_customer_watches_past_a_killed_gateway(
    weft: Weft, ann: Weft, stocked: str
) -> None:
    order_id = ann.json("order", "place", "--sku", stocked, "--wait")["orderId"]
    with ann.start("order", "watch", order_id, "--json") as watching:
        assert watching.stdout is not None
        told = [json.loads(watching.stdout.readline())["state"]]
        os.kill(weft.pid("gateway"), signal.SIGKILL)
        eventually(lambda: "DISPATCHED" in weft.attempt("shipment", "dispatch", order_id).stdout)
        assert "DELIVERED" in weft("shipment", "deliver", order_id)
        out, err = watching.communicate(timeout=PATIENCE)
    told += [json.loads(line)["state"] for line in out.splitlines()]
    states = [f"ORDER_STATE_{state}" for state in ("CONFIRMED", "SHIPPED", "COMPLETED")]
    assert watching.returncode == 0, err
    assert told == [state for state in states if state in told]
    assert told[-1] == "ORDER_STATE_COMPLETED"
    assert err.count("trying again") == 1
    assert "weft: FAILED_PRECONDITION: " in ann("order", "cancel", order_id, expect=1)


def test_a_product_is_changed_and_shown(weft: Weft) -> None:
    weft("product", "add", "cap", "--price", "9 EUR")
    weft("product", "update", "cap", "--price", "8.50 EUR", "--title", "A cap", "--no-active")
    assert re.search(r"title +A cap\s+price +8\.50 EUR\s+active +no", weft("product", "show", "cap"))


def test_the_token_of_whoami_is_good_for_any_client(ann: Weft) -> None:
    token = ann("whoami", "--token").strip()
    request = urllib.request.Request(f"{ann.gateway}/v1/orders", headers={"authorization": f"Bearer {token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
        assert "orders" in json.load(answer)


def test_who_signs_out_is_nobody_until_they_sign_in(weft: Weft) -> None:
    bob = weft.person("bob")
    bob("login", "bob@weft.example", "--register", "--password-stdin", stdin="bob's password")
    assert re.search(r"role +customer", bob("whoami"))
    assert "signed out bob@weft.example" in bob("logout")
    assert "UNAUTHENTICATED" in bob("login", "bob@weft.example", "--password-stdin", stdin="another one", expect=1)
    bob("login", "bob@weft.example", "--password-stdin", stdin="bob's password")
    assert "--address" in bob("order", "place", "--sku", "sample-mug", expect=1)


def test_the_databases_of_a_running_system_are_its_own(weft: Weft) -> None:
    told = weft("admin", "create", "--email", "boss@weft.example", "--password-stdin", stdin="password", expect=2)
    assert "`weft down` stops it" in told
    assert "admin.json" in told


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

    def is_reached_again() -> bool:
        # The gateway tries again after a moment, as others do who call order.
        return weft.attempt("order", "list").returncode == 0

    eventually(is_reached_again)
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


def test_what_was_ordered_is_still_there_when_one_process_goes_on(weft: Weft, ann: Weft, stocked: str) -> None:
    before = weft.json("order", "list", "--limit", "1000")["orders"]
    assert weft.down() == 0
    assert "nothing runs" in weft("order", "list", expect=2)
    boss = weft.person("boss")
    boss("admin", "create", "--email", "boss@weft.example", "--password-stdin", stdin="boss's password")
    boss("admin", "create", "--email", "ann@weft.example", "--promote")

    weft.up("--demo", "--one-process", until="serving; Ctrl-C")
    for outcome in OUTCOMES:
        assert re.search(outcome, weft.said), weft.said
    assert weft.pid("order") == weft.pid("shipping")
    for person, email in ((boss, "boss@weft.example"), (ann, "ann@weft.example")):
        name = email.partition("@")[0]
        person("login", email, "--password-stdin", stdin=f"{name}'s password")
        assert re.search(r"role +admin", person("whoami"))
        after = person.json("order", "list", "--limit", "1000")["orders"]
        assert {order["orderId"] for order in before} < {order["orderId"] for order in after}
    assert re.search(OUTCOMES[0], boss("demo", "--gateway", boss.gateway))
    assert "stopped (pid " in weft("down")
    assert weft.wait() == 0
    assert "nothing runs" in weft("down")
