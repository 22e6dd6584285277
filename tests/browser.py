"""A browser for tests: Chromium without a window, spoken to in its DevTools protocol.

It has a profile of its own, asks no other site for anything, and is gone with its profile when the test ends. Where
there is no Chromium, tests that use it are skipped.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_OPTIONS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-sandbox",  # Which root cannot have; only pages of the tests are opened.
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--window-size=1280,1600",
    # Whatever is not on this machine cannot be found: not by a page, and not by the browser itself.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_START = 30.0
_MOMENT = 0.05


def find() -> str:
    """Return the path of a Chromium. Skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"there is no browser here: one of {', '.join(_NAMES)} must be on the PATH")
    return found


class Page:
    """A page that is open, and what it has said and asked for so far."""

    def __init__(self, browser: _Browser, target: str, session: str) -> None:
        self.errors: list[str] = []
        """What its console was told as errors, scripts that failed, and resources that did not come."""
        self.requests: list[str] = []
        """The addresses that it asked for, in order; those within the page itself (`data:`) are not here."""
        self._browser = browser
        self._target = target
        self._session = session

    @property
    def foreign(self) -> list[str]:
        """The addresses that it asked for at another origin than its own, that of its first request."""
        origins = [urlsplit(url)[:2] for url in self.requests]
        return [url for url, origin in zip(self.requests, origins, strict=True) if origin != origins[0]]

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression as JSON has it; a promise is awaited. Raises `AssertionError`."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        reply = await self.send("Runtime.evaluate", **given)
        if failed := reply.get("exceptionDetails"):
            raise AssertionError(f"{expression}: {_told(failed)}")
        return reply["result"].get("value")

    async def until(self, expression: str, seconds: float = 20.0) -> Any:
        """Return the value of an expression once it is truthy. Raises `AssertionError` after so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not (value := await self.evaluate(expression)):
            if loop.time() > end:
                raise AssertionError(f"{expression} is {value!r} after {seconds:g} s; errors: {self.errors}")
            await asyncio.sleep(_MOMENT)
        return value

    async def screenshot(self) -> bytes:
        """Return what can be seen of it, as PNG."""
        reply = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(reply["data"])

    async def close(self) -> None:
        """Close it, and with it the connections that it has."""
        await self._browser.send("Target.closeTarget", targetId=self._target)

    async def send(self, method: str, **given: Any) -> Any:
        """Send a command of the DevTools protocol to it, and return the result."""
        return await self._browser.send(method, self._session, **given)

    def hear(self, method: str, told: dict[str, Any]) -> None:
        """Take an event of the DevTools protocol."""
        if method == "Network.requestWillBeSent":
            if (url := told["request"]["url"]).startswith("http"):
                self.requests.append(url)
        elif method == "Runtime.exceptionThrown":
            self.errors.append(_told(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description", ""))) for one in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}".strip())


class Browser:
    """A browser that runs."""

    def __init__(self, browser: _Browser) -> None:
        self._browser = browser

    async def open(self, url: str) -> Page:
        """Open an address in a page of its own. Raises `AssertionError` if nothing answers there."""
        return await self._browser.open(url)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run a browser, and end it. Skips the test where there is none."""
    program = find()
    with tempfile.TemporaryDirectory(prefix="weft-browser-", ignore_cleanup_errors=True) as profile:
        process = await _start(program, profile)
        try:
            address = await _address(process, Path(profile))
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(address, max_msg_size=0) as socket,
            ):
                speaking = _Browser(socket)
                hearing = asyncio.create_task(speaking.hear())
                try:
                    yield Browser(speaking)
                finally:
                    hearing.cancel()
                    await asyncio.gather(hearing, return_exceptions=True)
        finally:
            await _end(process)


async def _start(program: str, profile: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        program,
        *_OPTIONS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": profile},
        start_new_session=True,
    )


async def _address(process: asyncio.subprocess.Process, profile: Path) -> str:
    """Return where it listens, which it writes into its profile."""
    told = profile / "DevToolsActivePort"
    loop = asyncio.get_running_loop()
    end = loop.time() + _START
    while not (lines := told.read_text().split() if told.exists() else []) or len(lines) < 2:
        assert process.returncode is None, f"the browser ended by itself with {process.returncode}"
        assert loop.time() < end, f"the browser did not start within {_START:g} s"
        await asyncio.sleep(_MOMENT)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it and the processes that it has started, which are a group of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


class _Browser:
    """The connection to a browser, on which each page is a session."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def send(self, method: str, session: str = "", **given: Any) -> Any:
        """Send a command, and return its result. Raises `AssertionError` if it fails."""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": given}
        if session:
            command["sessionId"] = session
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(command)
        async with asyncio.timeout(_START):
            reply = await waiting
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    async def open(self, url: str) -> Page:
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.send(f"{domain}.enable")
        failed = (await page.send("Page.navigate", url=url)).get("errorText", "")
        assert not failed, f"{url}: {failed}"
        return page

    async def hear(self) -> None:
        """Take what the browser says, until it is gone."""
        async for message in self._socket:
            told = json.loads(message.data)
            if (waiting := self._waiting.pop(told.get("id", 0), None)) is not None:
                if not waiting.done():
                    waiting.set_result(told)
            elif (page := self._pages.get(told.get("sessionId", ""))) is not None:
                page.hear(told["method"], told["params"])
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(AssertionError("the browser is gone"))


def _told(failed: dict[str, Any]) -> str:
    thrown = failed.get("exception", {})
    return str(thrown.get("description") or thrown.get("value") or failed["text"])
