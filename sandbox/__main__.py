"""`python -m sandbox --port 8090 --ledger sandbox.db` runs the payment provider's stand-in."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from sandbox.api import make_app
from sandbox.ledger import Ledger, LedgerUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_GRACE = 2


class Server(uvicorn.Server):
    """uvicorn that leaves signals to `serve`: by itself it waits for held answers, and dies of the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(listener: socket.socket, ledger: Ledger) -> None:
    """Serve until SIGTERM or SIGINT."""
    closing = asyncio.Event()
    app = make_app(ledger, closing)
    # Connections outlive the clients' own keep-alive, so that no request meets a connection about to close.
    # One that is opened while the server stops is not told, and its client may go on using it: so a limit.
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE,
        )
    )

    def stop() -> None:
        closing.set()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    host, port = listener.getsockname()[:2]
    print(f"sandbox listens on http://{host}:{port}", flush=True)
    await server.serve(sockets=[listener])


def main(arguments: list[str] | None = None) -> int:
    """Run it; return the exit code: 2 if it cannot start for a reason that can be mended."""
    if os.environ.get("SANDBOX_DIE_WITH_PARENT") == "1":
        _die_with_parent()
    options = _parse(arguments)
    try:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(_listen(options.host, options.port))
            ledger = stack.enter_context(contextlib.closing(Ledger(options.ledger)))
            asyncio.run(serve(listener, ledger))
    except (LedgerUnusable, PortUnusable) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    return 0


class PortUnusable(Exception):
    """It cannot listen where it was told to; the message says what to do, in one line."""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    said = os.environ.get
    parser = argparse.ArgumentParser("sandbox", description="A stand-in for the company that takes payments.")
    add = parser.add_argument
    add("--host", default=said("SANDBOX_HOST", "127.0.0.1"), help="default: SANDBOX_HOST, or loopback")
    add(
        "--port",
        type=int,
        default=said("SANDBOX_PORT", "8090"),
        help="default: SANDBOX_PORT, or 8090; 0: any",
    )
    add("--ledger", type=Path, default=said("SANDBOX_LEDGER", "sandbox.db"), help="default: SANDBOX_LEDGER")
    return parser.parse_args(arguments)


def _listen(host: str, port: int) -> socket.socket:
    try:
        # With its protocol named, or asyncio leaves Nagle's algorithm on, and an answer takes 40 ms.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(2048)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        busy = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is in use" if busy else f"cannot be used ({error})"
        message = f"port {port} of {host} {why}: choose another with --port or SANDBOX_PORT"
        raise PortUnusable(message) from error
    return listener


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
