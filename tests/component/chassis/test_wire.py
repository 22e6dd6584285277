"""The wire agrees with stock nats-py on every header; what it does not know goes the ordinary way."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import nats
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ConnectionClosedError, Error

from weft.broker import Broker
from weft.embedded import configure_nats, find_nats_server, free_port
from weft.testing import eventually
from weft.wire import Connection, HeaderLines, _decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from nats.aio.msg import Msg

    from weft.embedded import NatsServer

FIRST_LINE = b"NATS/1.0\r\n"

letters = "!#$%&'*+-.^_`|~0123456789abcXYZ"
names = st.text(letters, min_size=1, max_size=12)
values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
tidy_values = values.map(str.strip)
separators = st.sampled_from([": ", ":", " : ", ":\t", "", "::", ":  "])
lines = st.one_of(
    st.builds(lambda name, value: f"{name}: {value}".encode(), names, values),
    st.builds(lambda *parts: "".join(parts).encode(), st.text(max_size=5), separators, values),
    st.binary(max_size=12),
)
blocks = st.builds(
    lambda first, found, end: first + b"".join(line + end for line in found) + b"\r\n",
    st.sampled_from([FIRST_LINE, FIRST_LINE, FIRST_LINE, b"NATS/1.0 503\r\n", b"NATS/1.0 100 Idle Heartbeat\r\n"]),
    st.lists(lines, max_size=4),
    st.sampled_from([b"\r\n", b"\r\n", b"\n"]),
)


class Captured(Client):
    """Stock nats-py, without a connection: keeps what it would send and tells what went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.errors: list[Exception] = []
        self._error_cb = self._note

    async def _note(self, error: Exception) -> None:
        self.errors.append(error)

    async def _send_command(self, command: bytes, priority: bool = False) -> None:
        self.sent += command


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def read_by_nats(block: bytes) -> dict[str, str]:
    """Return what stock nats-py reads in a block of headers."""
    return now(Captured()._process_headers(block)) or {}


def written_by_nats(headers: dict[str, str]) -> bytes:
    """Return the block that stock nats-py writes, from its first line to its empty one."""
    client = Captured()
    now(client._send_publish("s", "", b"", 0, headers))
    return client.sent.partition(b"\r\n")[2].removesuffix(b"\r\n")


@given(headers=st.dictionaries(names, tidy_values, min_size=1, max_size=5))
def test_headers_are_written_as_nats_py_writes_them(headers: dict[str, str]) -> None:
    assert FIRST_LINE + encode(headers) + b"\r\n" == written_by_nats(headers)


@given(headers=st.dictionaries(names, values, min_size=1, max_size=5))
def test_headers_that_nats_py_wrote_are_read_as_it_reads_them(headers: dict[str, str]) -> None:
    block = written_by_nats(headers)
    assert _decode(block) in (None, read_by_nats(block))


@given(headers=st.dictionaries(names, st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)))
def test_plain_headers_are_read_the_quick_way(headers: dict[str, str]) -> None:
    assert _decode(FIRST_LINE + encode(headers) + b"\r\n") == headers


@example(block=b"NATS/1.0\r\na: 1\r\na: 2\r\n\r\n")
@example(block=b"NATS/1.0\r\na: 1\nb: 2\r\n\r\n")
@example(block=b"NATS/1.0\r\na: \x851\r\n\r\n")
@example(block="NATS/1.0\r\na: 1\u2028b: 2\r\n\r\n".encode())
@example(block=b"NATS/1.0\r\n\r\n")
@given(block=blocks)
def test_whatever_is_read_the_quick_way_is_what_nats_py_reads(block: bytes) -> None:
    found = _decode(block)
    if found is not None:
        assert found == read_by_nats(block)


@pytest.mark.parametrize("status", [b"NATS/1.0 503", b"NATS/1.0 100 Idle Heartbeat", b"NATS/1.0 404 No Messages"])
def test_a_status_goes_the_ordinary_way(status: bytes) -> None:
    assert _decode(status + b"\r\n\r\n") is None
    assert _decode(status + b"\r\nNats-Last-Consumer: 7\r\n\r\n") is None


@pytest.mark.parametrize("bad", ["a\r\nb: c", "a\nb", "a\rb", "\n", "a\r"])
def test_a_line_break_cannot_forge_a_header(bad: str) -> None:
    for headers in ({"name": bad}, {bad: "value"}, {"one": "1", "name": bad}):
        with pytest.raises(ValueError, match="must be one line"):
            encode(headers)


@pytest.fixture
async def connection(broker: NatsServer) -> AsyncIterator[Connection]:
    """A connection to the test's broker."""
    connection = Connection()
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    connection.errors = errors  # type: ignore[attr-defined]
    await connection.connect(broker.url, error_cb=note, reconnect_time_wait=0.05)  # type: ignore[arg-type]
    yield connection
    await connection.close()


async def test_both_kinds_of_client_read_what_the_other_sent(connection: Connection, broker: NatsServer) -> None:
    headers = {"ce-id": "1", "empty": "", "value": "with: colons, spaces and ü"}
    taken: list[tuple[str, str, dict[str, str], bytes]] = []
    stock = await nats.connect(broker.url)
    try:
        await connection.deliver_to("to.us", lambda *message: taken.append(message))
        to_them = await stock.subscribe("to.them")
        await asyncio.gather(connection.flush(), stock.flush())
        await stock.publish("to.us", b"body", reply="back", headers=headers)
        await stock.publish("to.us", b"")
        await connection.publish("to.them", b"one", headers=encode(headers))  # type: ignore[arg-type]
        await connection.publish_all([("to.them", encode(headers), b"two"), ("to.them", HeaderLines(), b"three")])
        await connection.publish("to.them", b"four", headers=headers)
        got: list[Msg] = [await to_them.next_msg(5) for _ in range(4)]
        await eventually(lambda: len(taken) == 2)
    finally:
        await stock.close()
    assert taken == [("to.us", "back", headers, b"body"), ("to.us", "", {}, b"")]
    assert [(one.data, one.headers or {}) for one in got] == [
        (b"one", headers),
        (b"two", headers),
        (b"three", {}),
        (b"four", headers),
    ]


async def test_a_sink_that_raises_ends_nothing(connection: Connection) -> None:
    taken: list[bytes] = []

    def sink(_subject: str, _reply: str, _headers: dict[str, str], body: bytes) -> None:
        if body == b"bad":
            raise RuntimeError("told to fail")
        taken.append(body)

    await connection.deliver_to("s", sink)
    for body in (b"bad", b"good", b"bad", b"good"):
        await connection.publish("s", body)
    await eventually(lambda: taken == [b"good", b"good"])
    assert [str(error) for error in connection.errors] == ["told to fail"] * 2  # type: ignore[attr-defined]
    assert connection.is_connected


async def test_a_sink_hears_statuses_and_nothing_once_it_is_taken_away(connection: Connection) -> None:
    taken: list[dict[str, str]] = []
    inbox = connection.new_inbox()
    subscription = await connection.deliver_to(inbox, lambda _s, _r, headers, _b: taken.append(headers))
    await connection.publish("nobody.listens", b"", reply=inbox)
    await eventually(lambda: [headers["Status"] for headers in taken] == ["503"])
    await connection.no_longer(subscription)
    await connection.publish(inbox, b"late")
    await connection.flush()
    assert len(taken) == 1


async def test_without_a_connection_nothing_is_kept_for_later(connection: Connection, broker: NatsServer) -> None:
    never = Connection()
    with pytest.raises(ConnectionClosedError):
        await never.publish_all([("s", encode({"a": "b"}), b"")])
    taken: list[bytes] = []
    await connection.deliver_to("s", lambda _s, _r, _h, body: taken.append(body))
    await connection.flush()
    await broker.stop()
    await eventually(lambda: not connection.is_connected)
    with pytest.raises(Error):
        await connection.publish_all([("s", encode({"a": "b"}), b"lost")])
    with pytest.raises(Error):
        await connection.request("s", b"lost")
    await broker.start()
    await eventually(lambda: connection.is_connected)
    await connection.publish("s", b"new")
    await eventually(lambda: taken == [b"new"])


async def test_a_request_in_flight_is_given_up_when_the_connection_is_lost(broker: NatsServer) -> None:
    ours = Broker(broker.url, "test")
    await ours.connect()
    try:
        await ours.client.deliver_to("s", lambda *_: None)
        await ours.client.flush()
        asking = asyncio.create_task(ours.client.request("s", b"", timeout=60))
        await eventually(lambda: bool(ours.client._resp_map))
        await broker.kill()
        with pytest.raises(Error):
            await asyncio.wait_for(asking, 10)
    finally:
        await ours.close()


def test_what_websockets_need_is_not_imported_by_a_service_that_has_none() -> None:
    program = "import sys, services.order.service; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float' is deprecated:DeprecationWarning")  # nats-py's
async def test_a_broker_is_reached_over_a_websocket(tmp_path: Path) -> None:
    port, web_port = free_port(), free_port()
    config = configure_nats(tmp_path, port)
    with config.open("a") as file:
        file.write(f"websocket {{ host: 127.0.0.1, port: {web_port}, no_tls: true }}\n")
    server = await asyncio.create_subprocess_exec(find_nats_server(), "--config", config, stderr=subprocess.DEVNULL)
    over_web = Broker(f"ws://127.0.0.1:{web_port}", "test")
    try:
        await eventually(lambda: _listens(web_port))
        await over_web.connect()
        assert await over_web.ensure_stream("commerce.order") == "COMMERCE_ORDER"
        await over_web.close()
    finally:
        server.terminate()
        await server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
