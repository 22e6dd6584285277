"""`python -m bench` measures and prints one table; `make bench` is the same. Ctrl-C stops all that it started."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bench import edge, events, flow, gateway, latency, poison, start
from bench.display import Display
from bench.machine import describe_machine, describe_run, describe_versions
from bench.markdown import has_place, write_run
from bench.report import Report, Section
from bench.stage import QUICK, Broken, Scale, Stage
from cli.errors import Problem
from weft import CannotStart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bench.report import Figure

_WORK = Path(".bench")
_BROKE, _OPERATOR, _INTERRUPTED = 1, 2, 130
_SECTIONS: dict[str, tuple[str, Callable[[Stage], Awaitable[Sequence[Figure]]]]] = {
    "events": ("events handled by inventory (OrderCreated)", events.measure),
    "poison": ("events handled by inventory, with 1% that cannot be handled among them", poison.measure),
    "latency": ("one event through an idle inventory", latency.measure),
    "edge": ("one call: bare, chassis, gateway", edge.measure),
    "gateway": ("REST in front of gRPC: a bare proxy, this gateway, Envoy", gateway.measure),
    "flow": ("orders through the whole system, a process for each service", flow.measure),
    "one-process": ("orders through the whole system, all services in one process", flow.measure_one_process),
    "start": ("start and memory of the whole system", start.measure),
}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only",
        choices=list(_SECTIONS),
        action="append",
        metavar="SECTION",
        help=f"one of {', '.join(_SECTIONS)}; may be given several times",
    )
    parser.add_argument("--quick", action="store_true", help="measure little: to see that it works, not for figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the run into a Markdown file: docs/benchmarks.md"
    )
    return parser.parse_args(arguments)


def _fault(options: argparse.Namespace) -> str | None:
    """Return what speaks against the options, before anything is measured."""
    if options.json and not options.json.absolute().parent.is_dir():
        return f"there is no folder {options.json.parent} for {options.json.name}"
    if options.write and options.quick:
        return "figures of --quick do not count: --write goes without it"
    if options.write and not has_place(options.write):
        return f"{options.write} has no section `## A run` to replace"
    return None


async def _measure(options: argparse.Namespace, arguments: Sequence[str], folder: Path) -> Report:
    names = [name for name in _SECTIONS if not options.only or name in options.only]
    facts: dict[str, Any] = describe_run(arguments)
    if options.quick:
        facts["quick"] = "measured too briefly to count"
    facts["machine"] = await asyncio.to_thread(describe_machine, folder)
    facts["versions"] = describe_versions()
    sections: list[Section] = []
    async with Display(len(names)) as display:
        scale = QUICK if options.quick else Scale()
        stage = Stage(folder, scale, display, facts["versions"])
        for name in names:
            title, measure = _SECTIONS[name]
            section = Section(name, title)
            sections.append(section)
            display.section(title)
            try:
                section.figures = await measure(stage)
            except (Broken, CannotStart, Problem) as reason:
                section.broke = str(reason)
                display.warn(f"{title} broke: {reason}")
    return Report(facts, sections)


async def _run(options: argparse.Namespace, arguments: Sequence[str], folder: Path) -> Report:
    measuring = asyncio.current_task()
    assert measuring is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.cancel)
    return await _measure(options, arguments, folder)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code: 0 unless something broke, whatever the figures are."""
    options = _options(arguments)
    if fault := _fault(options):
        print(fault, file=sys.stderr)
        return _OPERATOR
    _WORK.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=_WORK)).resolve()
    folder.chmod(0o711)
    try:
        report = uvloop.run(_run(options, arguments, folder))
    except (KeyboardInterrupt, asyncio.CancelledError):
        shutil.rmtree(folder, ignore_errors=True)
        print("interrupted; all that was started is stopped", file=sys.stderr)
        return _INTERRUPTED
    report.print()
    if options.json:
        report.write_json(options.json)
    if not report.whole:
        print(f"something broke; the logs are in {folder}", file=sys.stderr)
        return _BROKE
    if options.write:
        write_run(options.write, report)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
