"""A run of `weft chaos`: break it while customers order, heal it, wait until it is quiet, and judge."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.chaos import report as reports
from cli.chaos.audit import Audit
from cli.chaos.customers import Customers, Person
from cli.chaos.desk import Desk
from cli.chaos.exposure import disturbances
from cli.chaos.faults import Injector
from cli.chaos.house import House, attach
from cli.chaos.own_house import Blueprint, own_house
from cli.chaos.plan import Counts, Stage, make_plan
from cli.chaos.report import Course, Report
from cli.chaos.screen import Screen
from cli.chaos.verdict import Outside, judge
from cli.display import make_console
from cli.errors import Problem
from cli.rest import Rest
from cli.system import NATS, POSTGRES, SANDBOX, SERVICES
from cli.tokens import read_admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cli.chaos.desk import Backlog
    from cli.chaos.faults import Incident

_VISITS = 150.0
_IN_BURSTS = 0.4
_LARGEST_BURST = 6
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Ordeal:
    """What a system is to go through."""

    orders: int
    rate: float
    """Orders a second."""
    seed: int
    counts: Counts
    longest_pause: float = 15.0
    data: Path | None = None
    """The folder of the system that is started; None for a temporary one."""
    postgres: bool = False
    scale: tuple[str, ...] = ()
    attach: Path | None = None
    """The folder of a running system to break instead of starting one."""
    json: Path | None = None
    """Where to write the report for programs."""
    keep: bool = False
    """Whether a temporary folder is kept although nothing is wrong."""

    @property
    def seconds(self) -> float:
        """How long customers go on coming, if nothing holds them up."""
        return self.orders / self.rate

    @property
    def burst(self) -> int:
        """How many orders are placed just before each fault."""
        return max(1, min(_LARGEST_BURST, int(self.orders * _IN_BURSTS / max(self.counts.total, 1))))


def undergo(ordeal: Ordeal) -> int:
    """Go through it; print what came of it, and return the exit code. Raises `Problem` if it cannot begin."""
    if ordeal.json is not None and not ordeal.json.absolute().parent.is_dir():
        raise Problem(f"{ordeal.json} cannot be written: there is no folder {ordeal.json.absolute().parent}.")
    with _folder(ordeal) as place:
        with Screen(ordeal.orders, ordeal.counts.total) as screen:
            found = asyncio.run(_until_interrupted(_Run(ordeal, place.path, screen)))
            if found is None:
                screen.phase("interrupted; everything is healed")
                return _INTERRUPTED
        reports.show(found, screen.console)
        if ordeal.json is not None:
            ordeal.json.write_text(json.dumps(found.as_json(), indent=2) + "\n")
        place.keep = ordeal.keep or found.exit_code != reports.CLEAN
    return found.exit_code


@dataclass(slots=True)
class _Place:
    path: Path
    keep: bool = True
    """Until it is known that nothing in it is of interest, however the run ends."""


@contextmanager
def _folder(ordeal: Ordeal) -> Iterator[_Place]:
    """Yield the folder of the system; a temporary one goes if it need not be kept, and else is named."""
    given = ordeal.attach or ordeal.data
    place = _Place(given or Path(tempfile.mkdtemp(prefix="weft-chaos-")))
    try:
        yield place
    finally:
        if place.keep and place.path.is_dir():
            make_console().print(f"databases, streams and logs are in {place.path}", markup=False, soft_wrap=True)
        elif given is None:
            _remove(place.path)


def _remove(folder: Path) -> None:
    programs = folder / POSTGRES / "programs"
    if programs.is_symlink():  # to the copy that was made for the user whom root runs PostgreSQL as
        shutil.rmtree(programs.resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


async def _until_interrupted(run: _Run) -> Report | None:
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(run.whole())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return None


class _Run:
    def __init__(self, ordeal: Ordeal, folder: Path, screen: Screen) -> None:
        self._ordeal = ordeal
        self._folder = folder
        self._screen = screen
        self._report = Report(_settings_of(ordeal))

    async def whole(self) -> Report:
        """Do all of it; return what came of it."""
        since = time.monotonic()
        async with self._house() as house, _desk(house) as desk:
            before = await _backlogs(desk)
            processes = house.processes()
            self._screen.phase("opening the shop")
            async with Customers(house, seed=self._ordeal.seed, most=self._ordeal.orders) as customers:
                log = customers.log
                self._screen.watch(log)
                begun = time.monotonic()
                incidents = await self._break(house, customers)
                healed = time.monotonic()
                self._screen.phase("healed; waiting until it is quiet")
                await customers.leave(_VISITS)
            audit = Audit(house, desk)
            await audit.wait(processes)
            quiet = time.monotonic()
            self._screen.phase("auditing")
            await audit.look(before, log.restocked)
            if house.deliveries is not None:
                self._report.events["deliveries"] = house.deliveries.count
                self._report.events["delivered again"] = house.deliveries.again
        self._conclude(Course(self._ordeal.orders, self._ordeal.counts, processes, incidents, log), audit)
        self._report.seconds = {
            "to start": begun - since,
            "of faults": healed - begun,
            "until quiet": quiet - healed,
            "in all": time.monotonic() - since,
        }
        return self._report

    def _conclude(self, course: Course, audit: Audit) -> None:
        outside = Outside(
            course.log,
            audit.open_ends,
            audit.dead_letters,
            audit.lame,
            unaudited=audit.unaudited,
            disturbed=disturbances(course.incidents),
        )
        self._report.violations = judge(outside, audit.books)
        reports.sum_up(self._report, course, audit.books, audit.events)

    async def _break(self, house: House, customers: Customers) -> list[Incident]:
        """Have customers come and things go wrong; return what went wrong once all is healed."""
        ordeal = self._ordeal
        stage = Stage(list(house.processes()), list(house.proxies), NATS, SANDBOX)
        plan = make_plan(ordeal.seed, ordeal.counts, stage, ordeal.seconds, ordeal.longest_pause)
        injector = Injector(house, customers, plan, burst=ordeal.burst, watcher=self._screen)

        def allowed() -> int:
            # In step with the plan: if that is late, there are customers left for the rest of it.
            return int(ordeal.orders * injector.progress) + 1

        self._screen.phase(f"{ordeal.orders} orders and {len(plan)} faults are on their way")
        try:
            await asyncio.gather(customers.come(ordeal.rate, allowed), injector.run())
        finally:
            await injector.heal()
        return injector.incidents

    @asynccontextmanager
    async def _house(self) -> AsyncIterator[House]:
        ordeal = self._ordeal
        if ordeal.attach is not None:
            self._screen.phase("attached to a running system: no connection of it can be cut")
            yield attach(ordeal.attach)
            return
        self._screen.phase(f"starting a system in {self._folder}")
        async with own_house(Blueprint(self._folder, ordeal.postgres, ordeal.scale)) as house:
            yield house


@asynccontextmanager
async def _desk(house: House) -> AsyncIterator[Desk]:
    """Yield the admin's desk: gRPC to the first instance of each service."""
    admin = Person(*read_admin(house.data))
    addresses = {service: f"127.0.0.1:{house.port(service, 'grpc')}" for service in SERVICES}
    async with Rest(house.gateway) as rest, Desk(addresses, lambda: admin.token(rest)) as desk:
        yield desk


async def _backlogs(desk: Desk) -> dict[str, Backlog]:
    told, silent = await desk.ask_all()
    for service, why in silent.items():
        raise Problem(f"{service} does not answer, and nothing was broken yet: {why}")
    return told


def _settings_of(ordeal: Ordeal) -> dict[str, Any]:
    counts = asdict(ordeal.counts)
    return {
        "orders": ordeal.orders,
        "rate": ordeal.rate,
        "seed": ordeal.seed,
        **counts,
        "store": "PostgreSQL" if ordeal.postgres else "SQLite",
        "scale": list(ordeal.scale),
        "attached": ordeal.attach is not None,
    }
