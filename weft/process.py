"""A process that hosts services: from its start to a clean end, within a bounded time, whatever happens."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol

import uvloop
from pydantic import ValidationError

from weft import logs
from weft.startup import CannotStart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic_core import ErrorDetails

_log = logs.logger("weft.process")
_PR_SET_PDEATHSIG = 1
_MOMENT = 2.0
_CLOSING = 4.0  # within the time that `weft up` and container engines give a process to end


class _Settings(Protocol):
    """What the process takes from the settings of what it hosts."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> Literal["auto", "json", "text"]: ...
    @property
    def die_with_parent(self) -> bool: ...
    @property
    def drain_seconds(self) -> float: ...


class Hosted(Protocol):
    """What a process can host: a `Service`, or what starts, stops and fails as one does."""

    @property
    def settings(self) -> _Settings: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def failed(self) -> None: ...


def run(build: Callable[[], Sequence[Hosted]]) -> NoReturn:
    """Run services as this process until SIGTERM or SIGINT, and end it.

    Exit codes: 0 after a clean stop, 1 after a crash, 2 when the operator has to mend something first, which
    one line on standard error names.
    """
    try:
        services = build()
        settings = services[0].settings
        logs.configure(level=settings.log_level, format=settings.log_format)
        if settings.die_with_parent:
            _die_with_parent()
        uvloop.run(_run(services))
    except CannotStart as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except ValidationError as error:
        print("; ".join(_setting_at_fault(one) for one in error.errors()), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _setting_at_fault(error: ErrorDetails) -> str:
    name = "_".join(str(part) for part in error["loc"]).upper()
    return f"WEFT_{name}: {error['msg'].removeprefix('Value error, ')}"


async def _run(services: Sequence[Hosted]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        # All of them to the end, so that none is stopped while it starts.
        for failure in await asyncio.gather(*(service.start() for service in services), return_exceptions=True):
            if failure is not None:
                raise failure
        _calm_garbage_collection()
        waits = [
            asyncio.ensure_future(stopping.wait()),
            *(asyncio.ensure_future(one.failed()) for one in services),
        ]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for one in done:
            one.result()
    finally:
        # A task that does not heed its cancellation, be it a library's, would keep the process.
        last = _end_after(max(service.settings.drain_seconds for service in services) + _CLOSING, exit_code=1)
        await asyncio.gather(*(service.stop() for service in services))
        last.cancel()
        if stopping.is_set():
            _end_after(_MOMENT, exit_code=0)


def _end_after(seconds: float, exit_code: int) -> threading.Timer:
    """End this process, if it does not do so by itself before."""

    def end_now() -> None:
        if exit_code:
            _log.error("not everything could be stopped in time: ending without it")
        os._exit(exit_code)

    last = threading.Timer(seconds, end_now)
    last.daemon = True
    last.start()
    return last


def _calm_garbage_collection() -> None:
    """Let a batch's thousands of short-lived objects go by reference count: the cycle detector's default of
    looking after every 700 new ones costs a fifth of a batch's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the supervisor ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() == 1:
            raise CannotStart("the supervisor ended before its service began")
