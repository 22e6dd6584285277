"""`weft up` with stand-ins for the processes: it starts, restarts and stops them, and takes them with it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from cli.child import Child, Life, Part
from cli.data import DataDirectory
from cli.errors import Problem
from cli.logs import LogFile
from cli.ports import pick_ports
from cli.probes import LOOPBACK, http_probe
from cli.screen import Screen
from cli.supervisor import Supervisor, Timing
from cli.up import down

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
QUICK = Timing(poll=0.01, start=PATIENCE, grace=10.0, first_delay=0.01, longest_delay=0.04)

# Serves 200 on a port until SIGTERM, which it notes in a file; says a line first.
SERVER = """
import http.server, os, signal, sys
name, port, ends = sys.argv[1], int(sys.argv[2]), sys.argv[3]
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
def end(*_):
    with open(ends, "a") as file:
        file.write(name + chr(10))
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print(name, "was here", flush=True)
try:
    serving = http.server.HTTPServer(("127.0.0.1", port), Ready)
except OSError as error:
    print(name, error, file=sys.stderr, flush=True)
    os._exit(2)
serving.serve_forever()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"

# `weft up` on four stand-ins.
UP = """
import sys
from pathlib import Path
from cli.errors import Problem
from cli.plan import Wishes
from cli.system import System
from cli.up import up
from tests.component.test_supervisor import server
class Fakes(System):
    def processes(self, *, one_process):
        keys = [("nats-server", "client"), ("sandbox", "http"), ("order", "ops"), ("gateway", "http")]
        return [server(n, self.ports[n, p], self.data, layer=i, port_name=p) for i, (n, p) in enumerate(keys)]
try:
    port = int(sys.argv[2]) if sys.argv[2] else None
    sys.exit(up(Wishes(Path(sys.argv[1]), gateway_port=port), Fakes))
except Problem as problem:
    print(f"weft: {problem}", file=sys.stderr)
    sys.exit(problem.exit_code)
"""


def server(name: str, port: int, folder: Path, *, layer: int = 0, port_name: str = "http") -> Child:
    """Return a stand-in that is ready once it serves `port`."""
    argv = (sys.executable, "-c", SERVER, name, str(port), str(folder / "ends"))
    part = Part(name, {port_name: port}, f"http://{LOOPBACK}:{port}")
    return Child(name, argv, {}, layer, (part,), (http_probe(port, "/"),))


def program(name: str, code: str, *, layer: int = 0) -> Child:
    """Return a stand-in that is never ready."""
    return Child(name, (sys.executable, "-c", code), {}, layer, (), (http_probe(1, "/"),))


@dataclass
class Heard:
    """A listener that remembers."""

    events: list[tuple[str, ...]] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def spawned(self, life: Life) -> None:
        self.events.append(("spawned", life.child.name))

    def ready(self, life: Life) -> None:
        self.events.append(("ready", life.child.name))

    def crashed(self, life: Life, end: str, delay: float) -> None:
        self.events.append(("crashed", life.child.name, end))
        self.delays.append(delay)

    def killed(self, life: Life) -> None:
        self.events.append(("killed", life.child.name))


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def ports() -> Iterator[int]:
    return iter(pick_ports(range(5), {}).values())


@pytest.fixture
async def run(tmp_path: Path, heard: Heard) -> AsyncIterator[Callable[..., Supervisor]]:
    """Make supervisors, whose processes are gone after the test."""
    made: list[Supervisor] = []

    def make(*children: Child, timing: Timing = QUICK) -> Supervisor:
        made.append(Supervisor(children, logs=tmp_path, listener=heard, timing=timing))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.kill()
        await supervisor.stop()


async def test_the_lowest_layer_is_ready_before_the_others_start(
    run: Callable[..., Supervisor], heard: Heard, ports: Iterator[int], tmp_path: Path
) -> None:
    broker = server("broker", next(ports), tmp_path)
    services = [server(name, next(ports), tmp_path, layer=1) for name in ("a", "b")]
    await run(broker, *services).start()
    assert heard.events[:2] == [("spawned", "broker"), ("ready", "broker")]
    assert sorted(heard.events[2:4]) == [("spawned", "a"), ("spawned", "b")]


async def test_the_lowest_layer_is_stopped_last(
    run: Callable[..., Supervisor], ports: Iterator[int], tmp_path: Path
) -> None:
    supervisor = run(*(server(f"layer {layer}", next(ports), tmp_path, layer=layer) for layer in (0, 1, 2)))
    await supervisor.start()
    await supervisor.stop()
    assert (tmp_path / "ends").read_text().splitlines() == ["layer 2", "layer 1", "layer 0"]


async def test_a_killed_process_is_named_and_restarted(
    run: Callable[..., Supervisor], heard: Heard, ports: Iterator[int], tmp_path: Path
) -> None:
    supervisor = run(server("order", next(ports), tmp_path))
    await supervisor.start()
    (life,) = supervisor.lives
    first = life.pid
    assert first
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: heard.events.count(("ready", "order")) == 2)
    assert ("crashed", "order", "was killed by SIGKILL") in heard.events
    assert life.pid != first


async def test_a_process_that_keeps_crashing_is_restarted_less_and_less_often(
    run: Callable[..., Supervisor], heard: Heard
) -> None:
    forever = replace(QUICK, tries=1000)
    starting = asyncio.create_task(run(program("order", "raise SystemExit(3)"), timing=forever).start())
    await eventually(lambda: len(heard.delays) >= 4)
    starting.cancel()
    assert heard.delays[:4] == [0.01, 0.02, 0.04, 0.04]
    assert ("crashed", "order", "ended with exit code 3") in heard.events


async def test_a_process_that_was_steady_is_restarted_without_delay(
    run: Callable[..., Supervisor], heard: Heard
) -> None:
    always_steady = Timing(poll=0.01, first_delay=0.01, steady=0.0)
    starting = asyncio.create_task(run(program("order", "raise SystemExit(3)"), timing=always_steady).start())
    await eventually(lambda: len(heard.delays) >= 3)
    starting.cancel()
    assert heard.delays[:3] == [0.01, 0.01, 0.01]


async def test_what_the_operator_must_mend_ends_the_start_with_the_process_s_own_words(
    run: Callable[..., Supervisor], ports: Iterator[int], tmp_path: Path
) -> None:
    wrong = program("order", "import sys; print('order: port 1 is in use', file=sys.stderr); sys.exit(2)", layer=1)
    with pytest.raises(Problem, match="order: port 1 is in use") as caught:
        await run(server("broker", next(ports), tmp_path), wrong).start()
    assert caught.value.exit_code == 2


async def test_exit_code_2_of_a_process_that_was_ready_is_a_crash_like_any_other(
    run: Callable[..., Supervisor], heard: Heard, ports: Iterator[int], tmp_path: Path
) -> None:
    supervisor = run(server("order", next(ports), tmp_path))
    await supervisor.start()
    (life,) = supervisor.lives
    life.child = program("order", "raise SystemExit(2)")
    os.kill(life.pid or 0, signal.SIGKILL)
    await eventually(lambda: ("crashed", "order", "ended with exit code 2") in heard.events)


async def test_a_process_that_keeps_crashing_before_it_was_ever_ready_ends_the_start(
    run: Callable[..., Supervisor], heard: Heard
) -> None:
    with pytest.raises(Problem, match="order ended with exit code 3, for the 4th time; see "):
        await run(program("order", "raise SystemExit(3)")).start()
    assert len(heard.delays) == 3


async def test_a_start_that_takes_too_long_names_who_is_late(run: Callable[..., Supervisor]) -> None:
    sleeper = program("order", "import signal; signal.pause()")
    with pytest.raises(Problem, match=r"order \(does not listen yet; see .*order\.log\)"):
        await run(sleeper, timing=Timing(poll=0.01, start=0.2)).start()


async def test_a_program_that_is_not_there_ends_the_start(run: Callable[..., Supervisor]) -> None:
    with pytest.raises(Problem, match="cannot start order"):
        await run(Child("order", ("/nowhere/at-all",))).start()


async def test_a_process_that_does_not_end_is_killed(
    run: Callable[..., Supervisor], heard: Heard, tmp_path: Path
) -> None:
    supervisor = run(program("order", STUBBORN), timing=Timing(poll=0.01, grace=0.1))
    starting = asyncio.create_task(supervisor.start())
    await eventually(lambda: "ready" in (tmp_path / "order.log").read_text() if heard.events else False)
    starting.cancel()
    await supervisor.stop()
    assert heard.events[-1] == ("killed", "order")


def test_a_crash_is_shown_with_its_last_lines(tmp_path: Path) -> None:
    said = io.StringIO()
    screen = Screen(["order"], Console(file=said, width=200))
    life = Life(Child("order", ()), tmp_path, ())
    (tmp_path / "order.log").write_text("of an earlier run\n")
    with life.log.open() as output:
        output.write(b"first\nKeyError: 'sku'\n")
    screen.crashed(life, "was killed by SIGSEGV", 0.4)
    assert "order (pid None) was killed by SIGSEGV; restarting it in 0.4 s" in said.getvalue()
    assert "| KeyError: 'sku'" in said.getvalue()
    assert "earlier" not in said.getvalue()


def test_structured_lines_are_shown_without_their_structure(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "order.log")
    with log.open() as output:
        output.write(b'{"time":"12:00","level":"error","message":"it broke","exception":"Traceback\\nKeyError"}\n')
        output.write(b'plain\n{"of": "no use"}\n')
    assert log.last_lines(9) == ["12:00 error it broke", "Traceback", "KeyError", "plain", '{"of": "no use"}']
    assert log.last_lines(2) == ["plain", '{"of": "no use"}']


def test_a_wanted_port_is_kept_unless_it_is_taken() -> None:
    wanted = pick_ports(["a", "b"], {})
    assert pick_ports(["a", "b"], wanted) == wanted
    with socket.create_server((LOOPBACK, wanted["a"])):
        picked = pick_ports(["a", "b"], wanted)
    assert picked["b"] == wanted["b"]
    assert picked["a"] not in wanted.values()


async def test_a_process_is_asked_to_end_in_the_way_that_it_wants(
    run: Callable[..., Supervisor], heard: Heard, tmp_path: Path
) -> None:
    child = replace(program("postgres", "import signal; print('there', flush=True); signal.pause()"))
    supervisor = run(replace(child, stop_signal=signal.SIGINT))
    starting = asyncio.create_task(supervisor.start())
    await eventually(lambda: "there" in (tmp_path / "postgres.log").read_text() if heard.events else False)
    starting.cancel()
    await supervisor.stop()
    assert "KeyboardInterrupt" in (tmp_path / "postgres.log").read_text()


class Up:
    """A `weft up` in a process of its own."""

    def __init__(self, data: Path, output: Path, gateway_port: int | None) -> None:
        self.data = DataDirectory.at(data)
        self.output = output
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, str(data), "" if gateway_port is None else str(gateway_port)],
                stdout=file,
                stderr=file,
                env=environment,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def run_file(self) -> dict[str, Any]:
        return self.data.read_run() or {"processes": []}

    def pids(self) -> dict[str, int]:
        return {process["name"]: process["pid"] for process in self.run_file()["processes"]}

    async def ready(self) -> None:
        await eventually(lambda: "weft is ready: " in self.said or self.process.poll() is not None)
        assert self.process.poll() is None, self.said

    async def ended(self) -> int:
        await eventually(lambda: self.process.poll() is not None)
        return self.process.returncode

    async def all_gone(self) -> None:
        await eventually(lambda: not self.data.processes_run())


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Callable[..., Up]]:
    """Start `weft up` on the same folder as often as called; nothing of it is left after the test."""
    started: list[Up] = []

    def start(gateway_port: int | None = 0) -> Up:
        started.append(Up(tmp_path / "data", tmp_path / f"output-{len(started)}", gateway_port))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
    for one in started:
        await one.all_gone()


async def test_up_describes_what_runs_and_stops_cleanly(up: Callable[..., Up]) -> None:
    weft = up()
    await weft.ready()
    described = weft.run_file()
    ports = {process["name"]: process["ports"] for process in described["processes"]}
    assert described["gateway"] == f"http://{LOOPBACK}:{ports['gateway']['http']}"
    assert weft.said.splitlines()[-1] == f"weft is ready: {described['gateway']}"
    assert described["nats"] == f"nats://{LOOPBACK}:{described['processes'][0]['ports']['client']}"
    assert list(weft.pids()) == ["nats-server", "sandbox", "order", "gateway"]
    assert all(datetime.fromisoformat(process["started"]).tzinfo for process in described["processes"])
    weft.process.terminate()
    assert await weft.ended() == 0
    assert not weft.data.processes_run()
    assert weft.data.read_run() is None
    assert "stopped" in weft.said


async def test_the_folder_and_the_admin_in_it_are_their_owner_s_alone(up: Callable[..., Up]) -> None:
    weft = up()
    await weft.ready()
    file = weft.data.admin_file
    assert str(file) in weft.said
    assert [stat.S_IMODE(path.stat().st_mode) for path in (weft.data.path, file)] == [0o700, 0o600]
    admin = json.loads(file.read_text())
    assert admin["email"] == "admin@weft.example"
    assert len(admin["password"]) >= 24
    assert admin["password"] not in weft.said
    weft.process.terminate()
    assert await weft.ended() == 0
    again = up()
    await again.ready()
    assert json.loads(file.read_text()) == admin


async def test_a_gateway_port_that_is_taken_is_named(up: Callable[..., Up]) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        weft = up(port)
        assert await weft.ended() == 2
    assert f"the gateway cannot listen on port {port} (Address already in use)" in weft.said
    assert len(weft.said.splitlines()) == 1


async def test_the_gateway_is_where_it_was_asked_for_even_where_another_part_was_before(up: Callable[..., Up]) -> None:
    first = up()
    await first.ready()
    port = first.run_file()["processes"][0]["ports"]["client"]
    first.process.terminate()
    await first.ended()
    second = up(port)
    await second.ready()
    assert second.run_file()["gateway"] == f"http://{LOOPBACK}:{port}"


async def test_run_json_follows_a_restart_and_the_ports_stay(up: Callable[..., Up]) -> None:
    weft = up()
    await weft.ready()
    before, pid = weft.run_file()["processes"], weft.pids()["order"]
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: "order was restarted and is ready" in weft.said)
    assert f"order (pid {pid}) was killed by SIGKILL" in weft.said
    after = weft.run_file()["processes"]
    assert weft.pids()["order"] != pid
    assert [process["ports"] for process in after] == [process["ports"] for process in before]


async def test_a_second_up_on_the_same_folder_is_refused_and_names_the_first(up: Callable[..., Up]) -> None:
    first = up()
    await first.ready()
    second = up()
    assert await second.ended() == 2
    assert f"is in use by another `weft up` (pid {first.process.pid})" in second.said
    assert len(second.said.splitlines()) == 1
    assert first.process.poll() is None


async def test_the_processes_end_with_a_supervisor_that_is_killed_and_the_next_one_goes_on(
    up: Callable[..., Up],
) -> None:
    first = up()
    await first.ready()
    ports = [process["ports"] for process in first.run_file()["processes"]]
    first.process.kill()
    second = up()
    await second.ready()
    assert [process["ports"] for process in second.run_file()["processes"]] == ports
    assert await first.ended() == -signal.SIGKILL


async def test_down_waits_until_everything_is_gone(up: Callable[..., Up]) -> None:
    weft = up()
    await weft.ready()
    message = await asyncio.to_thread(down, weft.data.path, PATIENCE)
    assert message == f"stopped (pid {weft.process.pid})"
    assert await weft.ended() == 0
    assert down(weft.data.path, 0) == f"nothing runs in {weft.data.path}"


async def test_a_second_interrupt_kills_at_once(up: Callable[..., Up]) -> None:
    weft = up()
    await weft.ready()
    for pid in weft.pids().values():
        os.kill(pid, signal.SIGSTOP)
    weft.process.send_signal(signal.SIGINT)
    await eventually(lambda: "stopping" in weft.said)
    weft.process.send_signal(signal.SIGINT)
    assert await weft.ended() == 130


def test_a_port_that_somebody_takes_meanwhile_is_exchanged_for_another(tmp_path: Path) -> None:
    robbing = """
        if not robbed:
            robbed.append(socket.create_server(("127.0.0.1", self.ports["order", "ops"])))
"""
    script = UP.replace("import sys\n", "import socket, sys\nrobbed = []\n", 1).replace(
        "one_process):\n", f"one_process):{robbing}", 1
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "data"), ""],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "weft is ready: " in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0, said
    assert "somebody took a port meanwhile: starting again on others" in said
    assert "weft is ready: " in said
