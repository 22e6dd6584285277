"""The payment provider's stand-in as a real process, and payment's client of it."""

import asyncio
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.payment.provider import (
    Charged,
    Declined,
    OutcomeUnknown,
    Provider,
    ProviderRefused,
    Refunded,
)
from weft.domain import Money, new_id
from weft.testing import eventually

ROOT = Path(__file__).parents[2]
AMOUNT = Money("EUR", 12_500_000_000)


class Sandbox:
    """A sandbox process and where it listens."""

    def __init__(self, ledger: Path, port: int = 0, **environment: str) -> None:
        command = [sys.executable, "-m", "sandbox", "--port", str(port), "--ledger", str(ledger)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.said = output.readline().strip()
        self.url = self.said.rpartition(" ")[2]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(ledger: Path, port: int = 0) -> Iterator[Sandbox]:
    sandbox = Sandbox(ledger, port)
    try:
        yield sandbox
    finally:
        sandbox.process.terminate()
        sandbox.process.wait(10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running(tmp_path_factory.mktemp("sandbox") / "ledger.db") as sandbox:
        yield sandbox


@pytest.fixture
async def http(shared: Sandbox) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(shared.url) as session:
        yield session


@pytest.fixture
async def provider(shared: Sandbox) -> AsyncIterator[Provider]:
    async with Provider(shared.url) as provider:
        yield provider


def a_charge(token: str = "tok_ok", **fields: Any) -> dict[str, Any]:
    return {
        "amount": {"currency": "EUR", "nanos": "12500000000"},
        "token": token,
        "reference": new_id(),
        **fields,
    }


async def post(http: aiohttp.ClientSession, path: str, key: str, document: object = None) -> tuple[int, dict[str, Any]]:
    async with http.post(path, headers={"Idempotency-Key": key} if key else {}, json=document) as response:
        return response.status, await response.json()


async def audit(http: aiohttp.ClientSession, reference: str) -> dict[str, Any]:
    async with http.get("/v1/ledger", params={"reference": reference}) as response:
        assert response.status == 200
        document: dict[str, Any] = await response.json()
        return document


async def test_a_good_card_is_charged(http: aiohttp.ClientSession) -> None:
    wanted = a_charge()
    status, charge = await post(http, "/v1/charges", new_id(), wanted)
    assert status == 201
    assert charge["id"].startswith("ch_")
    assert (charge["status"], charge["decline_reason"]) == ("succeeded", None)
    assert (charge["amount"], charge["reference"]) == (wanted["amount"], wanted["reference"])
    assert (await audit(http, wanted["reference"]))["net"] == {wanted["reference"]: {"EUR": "12500000000"}}


@pytest.mark.parametrize(("token", "reason"), [("tok_declined", "card_declined"), ("tok_other", "unknown_token")])
async def test_a_bad_card_is_declined_and_nothing_is_taken(
    http: aiohttp.ClientSession, token: str, reason: str
) -> None:
    wanted = a_charge(token)
    status, charge = await post(http, "/v1/charges", new_id(), wanted)
    assert (status, charge["status"], charge["decline_reason"]) == (201, "declined", reason)
    assert (await audit(http, wanted["reference"]))["net"] == {wanted["reference"]: {"EUR": "0"}}


async def test_the_same_key_and_request_get_the_same_answer(http: aiohttp.ClientSession) -> None:
    key, wanted = new_id(), a_charge()
    first = await post(http, "/v1/charges", key, wanted)
    assert await post(http, "/v1/charges", key, wanted) == first
    async with http.get("/v1/charges", params={"idempotency_key": key}) as response:
        assert (response.status, await response.json()) == (200, first[1])


@pytest.mark.parametrize(
    "change",
    [{"token": "tok_declined"}, {"reference": "other"}, {"amount": {"currency": "EUR", "nanos": "1"}}],
)
async def test_the_same_key_with_another_request_is_refused(
    http: aiohttp.ClientSession, change: dict[str, Any]
) -> None:
    key, wanted = new_id(), a_charge()
    await post(http, "/v1/charges", key, wanted)
    status, answer = await post(http, "/v1/charges", key, wanted | change)
    assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")
    assert len((await audit(http, wanted["reference"]))["charges"]) == 1


async def test_a_key_is_required(http: aiohttp.ClientSession) -> None:
    status, answer = await post(http, "/v1/charges", "", a_charge())
    assert (status, answer["error"]["code"]) == (400, "idempotency_key_required")
    status, answer = await post(http, "/v1/charges/ch_1/refunds", "")
    assert (status, answer["error"]["code"]) == (400, "idempotency_key_required")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ([], "invalid_amount"),
        (a_charge(amount="12.50"), "invalid_amount"),
        (a_charge(amount={"currency": "eur", "nanos": "1"}), "invalid_currency"),
        (a_charge(amount={"currency": "EUR", "nanos": 1}), "invalid_nanos"),
        (a_charge(amount={"currency": "EUR", "nanos": "0"}), "invalid_nanos"),
        (a_charge(amount={"currency": "EUR", "nanos": "9223372036854775808"}), "invalid_nanos"),
        (a_charge(token=""), "invalid_token"),
        (a_charge(reference="a b"), "invalid_reference"),
        (a_charge(token="t" * 20_000), "body_too_large"),
    ],
)
async def test_a_malformed_request_is_told_what_is_wrong(
    http: aiohttp.ClientSession, document: object, code: str
) -> None:
    status, answer = await post(http, "/v1/charges", new_id(), document)
    assert (status, answer["error"]["code"]) == (413 if code == "body_too_large" else 400, code)


async def test_a_body_that_is_not_json_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/charges", headers={"Idempotency-Key": "k"}, data=b"{") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_body")


async def test_what_does_not_exist_is_not_found(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/charges", params={"idempotency_key": "never"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "no_such_charge")
    status, answer = await post(http, "/v1/charges/ch_never/refunds", new_id())
    assert (status, answer["error"]["code"]) == (404, "no_such_charge")
    async with http.get("/v1/nothing") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "http_error")


async def test_twenty_concurrent_repeats_charge_once(http: aiohttp.ClientSession) -> None:
    key, wanted = new_id(), a_charge()
    answers = await asyncio.gather(*(post(http, "/v1/charges", key, wanted) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert len((await audit(http, wanted["reference"]))["charges"]) == 1


async def test_two_processes_with_one_ledger_charge_once(tmp_path: Path) -> None:
    with running(tmp_path / "l.db") as one, running(tmp_path / "l.db") as other:
        async with aiohttp.ClientSession() as http:
            key, wanted = new_id(), a_charge()
            urls = [f"{sandbox.url}/v1/charges" for sandbox in (one, other)] * 10
            answers = await asyncio.gather(*(post(http, url, key, wanted) for url in urls))
    assert {status for status, _ in answers} == {201}
    assert len({charge["id"] for _, charge in answers}) == 1


async def test_a_charge_is_refunded_once(http: aiohttp.ClientSession) -> None:
    wanted = a_charge()
    _, charge = await post(http, "/v1/charges", new_id(), wanted)
    key, path = new_id(), f"/v1/charges/{charge['id']}/refunds"
    refunds = await asyncio.gather(*(post(http, path, key) for _ in range(5)))
    status, refund = refunds[0]
    assert all(answer == refunds[0] for answer in refunds)
    assert (status, refund["charge_id"], refund["amount"]) == (201, charge["id"], wanted["amount"])
    status, answer = await post(http, path, new_id())
    assert (status, answer["error"]["code"]) == (409, "already_refunded")
    assert answer["error"]["refund"] == refund
    entries = await audit(http, wanted["reference"])
    assert entries["net"] == {wanted["reference"]: {"EUR": "0"}}
    assert entries["refunds"] == [refund]


async def test_a_key_of_another_refund_is_refused(http: aiohttp.ClientSession) -> None:
    key = new_id()
    (_, one), (_, other) = [await post(http, "/v1/charges", new_id(), a_charge()) for _ in range(2)]
    await post(http, f"/v1/charges/{one['id']}/refunds", key)
    status, answer = await post(http, f"/v1/charges/{other['id']}/refunds", key)
    assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")


async def test_a_declined_charge_has_nothing_to_refund(http: aiohttp.ClientSession) -> None:
    _, charge = await post(http, "/v1/charges", new_id(), a_charge("tok_declined"))
    status, answer = await post(http, f"/v1/charges/{charge['id']}/refunds", new_id())
    assert (status, answer["error"]["code"]) == (409, "not_charged")


async def test_the_ledger_outlives_a_kill_right_after_a_charge(tmp_path: Path) -> None:
    ledger, key, wanted = tmp_path / "ledger.db", new_id(), a_charge()
    with running(ledger) as sandbox:
        async with aiohttp.ClientSession(sandbox.url) as http:
            first = await post(http, "/v1/charges", key, wanted)
        sandbox.process.kill()
        sandbox.process.wait()
    with running(ledger, sandbox.port) as again:
        assert again.port == sandbox.port
        async with aiohttp.ClientSession(again.url) as http:
            assert await post(http, "/v1/charges", key, wanted) == first
            assert (await audit(http, wanted["reference"]))["charges"] == [first[1]]


async def test_it_ends_at_once_though_answers_are_held_back(tmp_path: Path) -> None:
    with running(tmp_path / "ledger.db") as sandbox:
        async with Provider(sandbox.url, timeout=30) as provider:
            held = [
                asyncio.create_task(provider.charge(new_id(), new_id(), AMOUNT, token))
                for token in ("tok_timeout", "tok_timeout", "tok_slow")
            ]
            await eventually(lambda: count_charges(tmp_path / "ledger.db") == 3)
            started = time.monotonic()
            sandbox.process.terminate()
            assert await asyncio.to_thread(sandbox.process.wait, 5) == 0
            assert time.monotonic() - started < 1.5
            ends = await asyncio.gather(*held, return_exceptions=True)
    assert [type(end) for end in ends] == [OutcomeUnknown, OutcomeUnknown, Charged]


def count_charges(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as database:
        (count,) = database.execute("SELECT count(*) FROM charges").fetchone()
        return int(count)


def test_a_busy_port_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        end = run("--port", str(port), "--ledger", str(tmp_path / "ledger.db"))
    assert end.returncode == 2
    expected = f"sandbox: port {port} of 127.0.0.1 is in use: choose another with --port or SANDBOX_PORT\n"
    assert end.stderr == expected


def test_a_port_that_does_not_exist_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    end = run("--port", "99999", "--ledger", str(tmp_path / "ledger.db"))
    assert end.returncode == 2
    assert re.fullmatch(r"sandbox: port 99999 of 127\.0\.0\.1 cannot be used .*\n", end.stderr)


async def test_answers_come_without_the_delay_of_nagle(http: aiohttp.ClientSession) -> None:
    times = []
    for _ in range(9):
        started = time.monotonic()
        await post(http, "/v1/charges", new_id(), a_charge())
        times.append(time.monotonic() - started)
    assert min(times) < 0.03


def test_a_ledger_without_a_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    end = run("--port", "0", "--ledger", str(tmp_path / "nowhere" / "ledger.db"))
    assert end.returncode == 2
    assert re.fullmatch(r"sandbox: the ledger .*: is its folder there\?\n", end.stderr)


def test_a_newer_ledger_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        database.execute("PRAGMA user_version = 2")
    end = run("--port", "0", "--ledger", str(tmp_path / "ledger.db"))
    assert end.returncode == 2
    assert re.fullmatch(r"sandbox: the ledger .* newer sandbox: .*\n", end.stderr)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sandbox", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child")
async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    with parent_of_a_sandbox(tmp_path / "ledger.db") as (parent, child):
        parent.kill()
        await eventually(lambda: not is_alive(child), what="the sandbox ends")


@contextmanager
def parent_of_a_sandbox(ledger: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    program = (
        "import subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-m', 'sandbox', '--port', '0', '--ledger', sys.argv[1]],"
        " stdout=subprocess.PIPE, text=True); p.stdout.readline(); print(p.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(ledger)],
        cwd=ROOT,
        env={**os.environ, "SANDBOX_DIE_WITH_PARENT": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_light(shared: Sandbox) -> None:
    status = Path(f"/proc/{shared.process.pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    assert int(resident[1]) < 70 * 1024


async def test_the_client_charges_and_refunds(provider: Provider, http: aiohttp.ClientSession) -> None:
    order_id = new_id()
    charged = await provider.charge(f"charge-{order_id}", order_id, AMOUNT, "tok_ok")
    assert isinstance(charged, Charged)
    refunded = await provider.refund(f"refund-{order_id}", charged.reference)
    assert isinstance(refunded, Refunded)
    assert await provider.refund(f"refund-{order_id}", charged.reference) == refunded
    assert await provider.refund("another", charged.reference) == refunded
    assert (await audit(http, order_id))["net"] == {order_id: {"EUR": "0"}}


async def test_the_client_is_told_of_a_declined_card(provider: Provider) -> None:
    declined = await provider.charge(new_id(), new_id(), AMOUNT, "tok_declined")
    assert declined == Declined("card_declined")


async def test_the_client_waits_for_a_slow_answer(provider: Provider) -> None:
    started = time.monotonic()
    assert isinstance(await provider.charge(new_id(), new_id(), AMOUNT, "tok_slow"), Charged)
    assert time.monotonic() - started >= 2


@pytest.mark.parametrize("repeat", [True, False])
async def test_a_charge_whose_answer_never_came_is_asked_for_again(
    shared: Sandbox, http: aiohttp.ClientSession, repeat: bool
) -> None:
    key, order_id = new_id(), new_id()
    async with Provider(shared.url, timeout=0.3) as provider:
        with pytest.raises(OutcomeUnknown):
            await provider.charge(key, order_id, AMOUNT, "tok_timeout")
        charged = await provider.charge(key, order_id, AMOUNT, "tok_timeout", repeat=repeat)
    entries = await audit(http, order_id)
    assert isinstance(charged, Charged)
    assert [charge["id"] for charge in entries["charges"]] == [charged.reference]


async def test_a_repeat_whose_first_request_never_arrived_charges(provider: Provider) -> None:
    assert isinstance(await provider.charge(new_id(), new_id(), AMOUNT, "tok_ok", repeat=True), Charged)


@pytest.mark.parametrize("repeat", [True, False])
async def test_a_key_of_another_order_is_refused(provider: Provider, repeat: bool) -> None:
    key = new_id()
    await provider.charge(key, new_id(), AMOUNT, "tok_ok")
    with pytest.raises(ProviderRefused) as refusal:
        await provider.charge(key, new_id(), AMOUNT, "tok_ok", repeat=repeat)
    assert refusal.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_what_the_provider_will_never_do_is_refused(provider: Provider) -> None:
    with pytest.raises(ProviderRefused, match="there is no charge") as refusal:
        await provider.refund(new_id(), "ch_never")
    assert refusal.value.reason == "NO_SUCH_CHARGE"


async def test_nobody_listening_is_an_unknown_outcome() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with Provider(f"http://127.0.0.1:{port}") as provider:
        with pytest.raises(OutcomeUnknown, match="no answer"):
            await provider.charge(new_id(), new_id(), AMOUNT, "tok_ok")


ANSWERS = {
    "a failure": b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}",
    "a page": b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>",
    "another service's refusal": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    "a redirect": b"HTTP/1.1 307 Off\r\nLocation: /\r\nContent-Length: 2\r\n\r\n{}",
    "half an answer": b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{",
    "no object": b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]",
    "silence": b"",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_that_does_not_tell_is_an_unknown_outcome(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Provider(f"http://127.0.0.1:{port}") as provider:
        with pytest.raises(OutcomeUnknown) as unknown:
            await provider.charge(new_id(), new_id(), AMOUNT, "tok_secret")
    assert "tok_secret" not in repr(unknown.value)


async def test_a_trace_goes_with_the_request() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Provider(f"http://127.0.0.1:{port}") as provider:
        with pytest.raises(OutcomeUnknown):
            await provider.refund("key-1", "ch_1", headers={"traceparent": "00-aa-bb-01"})
    assert b"traceparent: 00-aa-bb-01\r\n" in await heard
    assert b"Idempotency-Key: key-1\r\n" in await heard


async def test_an_outage_refuses_everything_until_it_is_over(tmp_path: Path) -> None:
    with running(tmp_path / "ledger.db") as sandbox:
        async with aiohttp.ClientSession(sandbox.url) as http:
            key, wanted = new_id(), a_charge()
            await post(http, "/control/outage", "", {"seconds": 60})
            status, answer = await post(http, "/v1/charges", key, wanted)
            assert (status, answer["error"]["code"]) == (503, "outage")
            assert (await audit(http, wanted["reference"]))["charges"] == []
            await post(http, "/control/outage", "", {"seconds": 0})
            assert (await post(http, "/v1/charges", key, wanted))[0] == 201


async def test_an_outage_may_lose_answers_alone(tmp_path: Path) -> None:
    with running(tmp_path / "ledger.db") as sandbox:
        async with aiohttp.ClientSession(sandbox.url) as http:
            key, wanted = new_id(), a_charge()
            await post(http, "/control/outage", "", {"seconds": 60, "answers_lost": True})
            assert (await post(http, "/v1/charges", key, wanted))[0] == 503
            assert len((await audit(http, wanted["reference"]))["charges"]) == 1
            async with Provider(sandbox.url) as provider:
                with pytest.raises(OutcomeUnknown):
                    await provider.charge(key, wanted["reference"], AMOUNT, "tok_ok", repeat=True)
                await post(http, "/control/outage", "", {"seconds": 0})
                found = await provider.charge(key, wanted["reference"], AMOUNT, "tok_ok", repeat=True)
            assert isinstance(found, Charged)


@pytest.mark.parametrize("seconds", [None, "5", True, -1, 601])
async def test_an_outage_of_no_time_that_is_known_is_refused(http: aiohttp.ClientSession, seconds: object) -> None:
    status, answer = await post(http, "/control/outage", "", {"seconds": seconds})
    assert (status, answer["error"]["code"]) == (400, "invalid_seconds")
