"""The `weft` command and the gateway: sessions, refusals, faults, and what is sent."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from typer.testing import CliRunner

from cli import rest
from cli.errors import Problem
from cli.main import app
from cli.sessions import Sessions
from tests.component.gateways import FakeGateway, fake_gateway, refuse
from weft.testing import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from typer.testing import Result

ROOT = Path(__file__).resolve().parents[2]
ANN = "ann@weft.example"
ADMIN = "admin@weft.example"
ORDER: dict[str, Any] = {
    "orderId": "o1",
    "userId": "id-of-ann",
    "state": "ORDER_STATE_CONFIRMED",
    "lines": [{"sku": "mug", "quantity": 2, "unitPrice": {"currencyCode": "EUR", "units": "12"}}],
    "total": {"currencyCode": "EUR", "units": "24"},
    "aFieldOfLater": 1,
}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is signed in anywhere, and no proxy stands between."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("WEFT_DATA", str(tmp_path / "data"))
    for name in ("WEFT_GATEWAY", "WEFT_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest_asyncio.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeGateway]:
    """A gateway at which ann has an account, and everybody one order."""
    async with fake_gateway() as fake:
        fake.add(ANN, "ann's password")
        fake.orders = [ORDER]
        monkeypatch.setenv("WEFT_GATEWAY", fake.url)
        yield fake


@pytest.fixture
def local(gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """The same gateway, found through the folder of a system that runs, which has made its admin."""
    gateway.add(ADMIN, "a random password", role="admin")
    monkeypatch.delenv("WEFT_GATEWAY")
    data = tmp_path / "data"
    data.mkdir()
    (data / "run.json").write_text(json.dumps({"gateway": gateway.url, "nats": "", "processes": []}))
    (data / "admin.json").write_text(json.dumps({"email": ADMIN, "password": "a random password"}))
    with (data / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield gateway


async def weft(*arguments: str, stdin: str = "") -> Result:
    """Run a command in this process."""
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, stdin)
    assert result.exception is None or isinstance(result.exception, Problem | SystemExit), result.exception
    return result


async def problem(*arguments: str, stdin: str = "") -> Problem:
    """Run a command that ends with a problem."""
    result = await weft(*arguments, stdin=stdin)
    assert isinstance(result.exception, Problem), result.output
    return result.exception


async def sign_in(*options: str) -> None:
    result = await weft("login", ANN, "--password-stdin", *options, stdin="ann's password\n")
    assert result.exit_code == 0, result.exception


def kept(gateway: FakeGateway, tmp_path: Path) -> Any:
    return Sessions(tmp_path / "state" / "weft").find(gateway.url)


async def test_who_has_signed_in_goes_on_as_themselves_until_they_sign_out(gateway: FakeGateway) -> None:
    await sign_in()
    assert ANN in (await weft("whoami")).output
    assert (await weft("order", "show", "o1")).exit_code == 0
    assert gateway.asked["POST /v1/sessions"] == 1
    await weft("logout")
    assert gateway.sessions == []
    assert "weft login EMAIL" in str(await problem("order", "show", "o1"))


async def test_an_account_is_opened_with_a_name_and_an_address(gateway: FakeGateway) -> None:
    options = ("--register", "--name", "Bob", "--address", "1 Street, Bern, ch", "--password-stdin")
    await weft("login", "bob@weft.example", *options, stdin="bob's password")
    user = json.loads((await weft("whoami", "--json")).output)
    assert user["displayName"] == "Bob"
    assert user["address"] == {"regionCode": "CH", "addressLines": ["1 Street", "Bern"]}
    assert "ALREADY_EXISTS" in str(
        await problem("login", "bob@weft.example", "--register", "--password-stdin", stdin="x")
    )


async def test_a_wrong_password_keeps_no_session(gateway: FakeGateway, tmp_path: Path) -> None:
    told = await problem("login", ANN, "--password-stdin", stdin="another\n")
    assert str(told) == "UNAUTHENTICATED: the email or the password is wrong"
    assert told.exit_code == 1
    assert kept(gateway, tmp_path) is None


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("login", ANN), "--password-stdin"),
        (("login", ANN, "--password-stdin"), "standard input is empty"),
        (("login", ANN, "--name", "Ann", "--password-stdin"), "add --register"),
        (("login", "--register", "--password-stdin"), "EMAIL"),
        (("login",), "weft login EMAIL"),
    ],
)
async def test_who_cannot_sign_in_like_that_is_told_how(
    gateway: FakeGateway, arguments: tuple[str, ...], advice: str
) -> None:
    assert advice in str(await problem(*arguments))
    assert not gateway.requests


async def test_an_expired_access_token_is_refreshed_by_itself(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.lifetime = -1
    await sign_in()
    gateway.lifetime = 600
    for _ in range(2):
        assert (await weft("order", "show", "o1")).exit_code == 0
    assert gateway.asked["POST /v1/sessions:refresh"] == 1
    assert kept(gateway, tmp_path).access_token == gateway.sessions[0].access


async def test_a_rejected_access_token_is_refreshed_and_the_request_made_again(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.reject_tokens()
    assert (await weft("order", "cancel", "o1")).exit_code == 0
    assert gateway.asked["POST /v1/orders/o1:cancel"] == 2


async def test_a_session_that_has_ended_says_how_to_begin_another(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.reject_tokens()
    gateway.sessions.clear()
    told = str(await problem("order", "show", "o1"))
    assert f"`weft login {ANN}` begins another" in told


async def test_commands_at_the_same_time_refresh_a_session_once(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.lifetime = -1
    await sign_in()
    gateway.lifetime = 600
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}
    command = (sys.executable, "-m", "cli", "order", "show", "o1", "--json")
    pipe = asyncio.subprocess.PIPE
    running = [await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe) for _ in range(4)]
    outputs = [(await process.communicate())[0] for process in running]
    assert [json.loads(output) for output in outputs] == [ORDER] * 4
    assert gateway.asked["POST /v1/sessions:refresh"] == 1


async def test_the_owner_of_a_local_system_is_its_admin_without_signing_in(local: FakeGateway) -> None:
    assert "admin" in (await weft("whoami")).output
    await weft("order", "show", "o1")
    assert local.asked["POST /v1/sessions"] == 1


async def test_a_local_system_that_began_anew_has_its_admin_sign_in_anew(local: FakeGateway) -> None:
    await weft("whoami")
    local.sessions.clear()
    assert (await weft("whoami")).exit_code == 0
    assert local.asked["POST /v1/sessions"] == 2


async def test_who_signed_in_goes_before_the_admin_of_a_local_system(local: FakeGateway) -> None:
    await weft("whoami")
    await sign_in()
    assert ANN in (await weft("whoami")).output
    assert "commands act as the admin" in (await weft("logout")).output
    assert ADMIN in (await weft("whoami")).output


async def test_without_an_email_the_admin_of_a_local_system_signs_in(local: FakeGateway) -> None:
    assert (await weft("login")).output.startswith(f"signed in as {ADMIN}")


async def test_the_admin_of_a_local_system_is_nobody_elsewhere(
    local: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nobody is signed in" in str(await problem("whoami", "--gateway", local.url))
    monkeypatch.setenv("WEFT_GATEWAY", local.url)
    assert "nobody is signed in" in str(await problem("whoami"))


async def test_a_token_in_the_environment_goes_before_all(local: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await sign_in()
    token = (await weft("whoami", "--token")).output.strip()
    await weft("logout")
    local.sessions.clear()
    monkeypatch.setenv("WEFT_TOKEN", token)
    assert "WEFT_TOKEN" in str(await problem("whoami"))
    assert local.asked["POST /v1/sessions:refresh"] == 0


@pytest.mark.parametrize("token", ["two words", "a\nb", "caf\u00e9"])
async def test_what_is_no_token_is_not_sent(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("WEFT_TOKEN", token)
    assert "WEFT_TOKEN is no bearer token" in str(await problem("order", "list"))
    assert not gateway.requests


async def test_the_demo_at_a_gateway_elsewhere_is_for_admins(gateway: FakeGateway) -> None:
    await sign_in()
    told = str(await problem("demo"))
    assert f"{ANN} is no admin at {gateway.url}" in told
    assert "weft login EMAIL" in told


async def test_a_busy_gateway_is_asked_again_when_it_says_so(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: refuse(14, "not now", **{"retry-after": "0"})]
    assert (await weft("order", "show", "o1", "--json")).exit_code == 0
    gateway.faults = [lambda: refuse(14, "not now", **{"retry-after": "0"})] * 2
    assert str(await problem("order", "show", "o1")) == "UNAVAILABLE: not now"


async def test_what_is_not_safe_to_repeat_is_never_repeated(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: refuse(14, "not now", **{"retry-after": "0"})]
    assert str(await problem("shipment", "dispatch", "o1")) == "UNAVAILABLE: not now"
    assert gateway.asked["POST /v1/shipments/o1:dispatch"] == 1


@pytest.mark.parametrize("command", [("place", "--sku", "mug"), ("cancel", "o1")])
async def test_an_order_is_placed_or_cancelled_again_under_its_key_when_no_answer_came(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(rest, "_LONGEST_PAUSE", 0)
    await sign_in()
    for fault in (lambda: break_off(gateway), lambda: refuse(14, "not now", **{"retry-after": "0"})):
        gateway.faults = [fault]
        assert (await weft("order", *command)).exit_code == 0
    gateway.faults = [lambda: break_off(gateway)] * 2
    told = str(await problem("order", *command, "--idempotency-key", "my key"))
    assert "ask again with --idempotency-key 'my key'" in told
    keys = [request.headers["idempotency-key"] for request, _ in gateway.requests if "orders" in request.path]
    assert (keys[0], keys[2], keys[4:]) == (keys[1], keys[3], ["my key"] * 2)
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("cut off", None, "nothing answers"),
        ("cut off", lambda: refuse(14, "still away"), "UNAVAILABLE: still away"),
        ("away", lambda: refuse(14, "still away", **{"retry-after": "0"}), "UNAVAILABLE: still away"),
        ("late", None, "DEADLINE_EXCEEDED: too late"),
    ],
)
async def test_where_it_is_not_known_what_became_of_an_order_its_key_is_told(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, first: str, second: Any, told: str
) -> None:
    """The next command would have a key of its own, and be another order."""
    monkeypatch.setattr(rest, "_LONGEST_PAUSE", 0)
    await sign_in()
    faults = {
        "cut off": lambda: break_off(gateway),
        "away": lambda: refuse(14, "away", **{"retry-after": "0"}),
        "late": lambda: refuse(4, "too late"),
    }
    gateway.faults = [faults[first], *([second] if second else [])]
    if "nothing" in told:
        refuse_connections(monkeypatch, after=1)
    failed = await problem("order", "place", "--sku", "mug")
    key = next(request.headers["idempotency-key"] for request, _ in gateway.requests if "orders" in request.path)
    assert told in str(failed)
    assert f"is not known: ask again with --idempotency-key {key}" in str(failed)


def refuse_connections(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Have nothing answer any more after so many calls with a key."""
    exchange, sent = rest.Rest._exchange, 0

    async def counted(self: Any, method: str, url: Any, headers: dict[str, str], body: Any) -> Any:
        nonlocal sent
        sent += "idempotency-key" in headers
        nowhere = url.with_port(free_port()) if sent > after else url
        return await exchange(self, method, nowhere, headers, body)

    monkeypatch.setattr(rest.Rest, "_exchange", counted)


async def test_an_order_that_was_refused_has_no_doubt_about_it(gateway: FakeGateway) -> None:
    await sign_in()
    for code in (3, 8, 9):
        gateway.faults = [lambda: refuse(code, "no")]  # noqa: B023 - called before the next turn
        assert "is not known" not in str(await problem("order", "place", "--sku", "mug"))


async def test_a_wrong_field_is_told_on_a_line_of_its_own(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: refuse(3, "bad", "lines[0].sku", "paymentToken")]
    told = await problem("order", "place", "--sku", "mug")
    assert str(told).splitlines()[1:] == ["  lines[0].sku: is wrong", "  paymentToken: is wrong"]
    assert told.exit_code == 1


async def test_an_order_without_an_address_says_which_option_gives_one(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: refuse(3, "bad", "shipTo")]
    assert "--address" in str(await problem("order", "place", "--sku", "mug"))


async def test_who_may_not_is_told_as_whom_they_asked(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: refuse(7, "only an admin may do this")]
    told = str(await problem("stock", "add", "mug", "1"))
    assert told.startswith("PERMISSION_DENIED: only an admin may do this")
    assert ANN in told


@pytest.mark.parametrize(
    "fault",
    [
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.Response(status=404, text="not found"),
        lambda: web.json_response(["a list"]),
        lambda: web.json_response({"detail": "no status"}, status=500),
        lambda: web.Response(status=302, headers={"location": "http://127.0.0.1:9/"}),
    ],
)
async def test_an_answer_that_no_gateway_gives_is_told_in_one_line(gateway: FakeGateway, fault: Any) -> None:
    gateway.faults = [fault]
    told = await problem("product", "list")
    assert "is the address right?" in str(told)
    assert "\n" not in str(told)
    assert told.exit_code == 2


async def test_where_nothing_answers_one_is_told_so() -> None:
    told = await problem("product", "list", "--gateway", f"http://127.0.0.1:{free_port()}")
    assert "nothing answers at http://127.0.0.1:" in str(told)
    assert told.exit_code == 2


async def test_a_broken_connection_leaves_no_doubt_about_the_doubt(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: break_off(gateway)]
    assert "look before you ask again" in str(await problem("shipment", "dispatch", "o1"))


def break_off(gateway: FakeGateway) -> web.StreamResponse:
    """Cut the connection instead of answering."""
    transport = gateway.requests[-1][0].transport
    assert transport is not None
    transport.abort()
    return web.Response()


async def test_the_catalogue_needs_no_token(gateway: FakeGateway) -> None:
    gateway.orders = [{"products": [{"sku": "mug", "title": "A [bold] mug"}]}]
    assert "A [bold] mug" in (await weft("product", "list")).output
    assert "authorization" not in gateway.requests[-1][0].headers


async def test_a_list_is_as_many_pages_as_it_takes(gateway: FakeGateway) -> None:
    gateway.orders = [
        {"products": [{"sku": "a"}, {"sku": "b"}], "nextPageToken": "2"},
        {"products": [{"sku": "c"}], "nextPageToken": "3"},
        {"products": [{"sku": "d"}]},
    ]
    listed = json.loads((await weft("product", "list", "--limit", "9", "--json")).output)
    assert listed == {"products": [{"sku": sku} for sku in "abcd"]}
    asked = [dict(request.query) for request, _ in gateway.requests]
    assert asked == [{"pageSize": "9"}, {"pageSize": "7", "pageToken": "2"}, {"pageSize": "6", "pageToken": "3"}]


async def test_stock_of_a_product_that_inventory_has_yet_to_hear_of_is_added_all_the_same(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [lambda: refuse(5, "there is no stock of 'mug'")]
    assert (await weft("stock", "add", "mug", "3")).exit_code == 0
    assert [f"{request.method} {request.path}" for request, _ in gateway.requests[-3:]] == [
        "POST /v1/inventory/mug:restock",
        "GET /v1/products/mug",
        "POST /v1/inventory/mug:restock",
    ]
    gateway.faults = [lambda: refuse(5, "there is no stock of 'mug'"), lambda: refuse(5, "there is no product 'mug'")]
    assert str(await problem("stock", "add", "mug", "3")) == "NOT_FOUND: there is no product 'mug'"


async def test_json_is_what_the_gateway_answered(gateway: FakeGateway) -> None:
    await sign_in()
    assert json.loads((await weft("order", "show", "o1", "--json")).output) == ORDER


async def test_an_order_is_followed_to_its_outcome_past_a_gateway_that_is_away(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.orders = [{**ORDER, "state": "ORDER_STATE_PENDING"}] * 3 + [{**ORDER, "state": "ORDER_STATE_CANCELLED"}]
    running = asyncio.create_task(weft("order", "place", "--sku", "mug:2", "--wait", "--json"))
    await eventually(lambda: gateway.asked["GET /v1/orders/o1"])
    gateway.faults = [lambda: refuse(14, "not now")]
    result = await running
    assert result.exit_code == 1
    assert json.loads(result.output)["state"] == "ORDER_STATE_CANCELLED"
    assert gateway.asked["POST /v1/orders"] == 1


def streamed(*parts: str, **last: Any) -> Callable[[], web.Response]:
    """Return an answer of events: of an order in these states, `id:STATE`, and of an error if there is one."""
    events = []
    for place, state in (part.split(":") for part in parts):
        order = json.dumps({**ORDER, "state": f"ORDER_STATE_{state}"})
        events.append(f"id: {place}\ndata: {order}\n\n")
    if last:
        events.append(f"event: error\ndata: {json.dumps(last)}\n\n")
    return lambda: web.Response(text="retry: 2000\n\n:\n\n" + "".join(events), content_type="text/event-stream")


async def test_a_watched_order_shows_each_state_once_however_often_it_is_cut_off(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.watch._PAUSES", (0.0, 0.0))
    await sign_in()
    gateway.reject_tokens()
    gateway.faults = [
        streamed("1:PENDING", code=14, message="the gateway stops"),
        lambda: refuse(14, "not yet"),
        streamed("2:CONFIRMED"),
        streamed("3:SHIPPED"),
        lambda: web.Response(status=204),
    ]
    result = await weft("order", "watch", "o1")
    assert result.exit_code == 0
    assert result.stdout.split() == ["PENDING", "CONFIRMED", "SHIPPED"]
    assert result.stderr.count("the gateway stops; trying again") == 1
    asked = [request for request, _ in gateway.requests if request.path == "/v1/orders/o1:watch"]
    assert [request.headers.get("last-event-id") for request in asked] == [None, "1", "1", "2", "3"]
    assert {request.headers["accept"] for request in asked} == {"text/event-stream"}


async def test_a_watch_goes_on_for_as_long_as_its_streams_come_to_their_ends(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway ends a stream after an hour, and an order may wait for days: nothing is wrong then."""
    monkeypatch.setattr("cli.watch._PAUSES", (0.0, 0.0))
    await sign_in()
    hour = streamed(code=4, message="that took long enough")
    gateway.faults = [streamed("1:PENDING", code=4, message="that took long enough"), *[hour] * 5]
    gateway.faults += [streamed("2:COMPLETED")]
    result = await weft("order", "watch", "o1")
    assert (result.exit_code, result.stdout.split(), result.stderr) == (0, ["PENDING", "COMPLETED"], "")


async def test_a_watched_order_is_json_on_a_line_for_each_state(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.faults = [streamed("1:PENDING", "2:CANCELLED")]
    lines = (await weft("order", "watch", "o1", "--json")).stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["ORDER_STATE_PENDING", "ORDER_STATE_CANCELLED"]
    gateway.faults = [lambda: web.json_response(ORDER), streamed("1:CONFIRMED", "2:COMPLETED")]
    placed = await weft("order", "place", "--sku", "mug", "--watch")
    assert placed.stdout.split()[:2] == ["order", "o1"]
    assert placed.stdout.split()[-2:] == ["CONFIRMED", "COMPLETED"]


async def test_a_watch_that_is_refused_or_fails_again_and_again_is_given_up(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.watch._PAUSES", (0.0, 0.0))
    await sign_in()
    gateway.faults = [lambda: refuse(5, "there is no order 'o1'")]
    assert "there is no order" in str(await problem("order", "watch", "o1"))
    gateway.faults = [streamed("1:PENDING"), *[lambda: refuse(14, "still away")] * 2]
    assert "still away" in str(await problem("order", "watch", "o1"))
    assert not gateway.faults
    assert "choose one" in str(await problem("order", "place", "--sku", "mug", "--wait", "--watch"))


async def test_what_is_ordered_is_sent_as_it_was_typed(gateway: FakeGateway) -> None:
    await sign_in()
    await weft("order", "place", "--sku", "mug:2", "--sku", "tee", "--token", "tok_slow", "--address", "1 Street, ch")
    assert gateway.requests[-1][1] == {
        "lines": [{"sku": "mug", "quantity": 2}, {"sku": "tee", "quantity": 1}],
        "paymentToken": "tok_slow",
        "shipTo": {"regionCode": "CH", "addressLines": ["1 Street"]},
    }


async def test_only_the_admin_of_a_local_system_orders_to_a_sample_address(local: FakeGateway) -> None:
    await weft("order", "place", "--sku", "mug")
    assert local.requests[-1][1]["shipTo"]["regionCode"] == "DE"
    local.accounts[ADMIN].user["address"] = {"regionCode": "CH", "addressLines": ["1 Street"]}
    await weft("order", "place", "--sku", "mug")
    assert "shipTo" not in local.requests[-1][1]
    await sign_in()
    await weft("order", "place", "--sku", "mug")
    assert "shipTo" not in local.requests[-1][1]


async def test_an_update_names_the_fields_that_it_changes(gateway: FakeGateway) -> None:
    await sign_in()
    await weft("product", "update", "mug", "--price", "9 EUR", "--description", "", "--no-active")
    request, body = gateway.requests[-1]
    assert (request.method, request.path) == ("PATCH", "/v1/products/mug")
    assert dict(request.query) == {"updateMask": "price,description,active"}
    assert body == {"price": {"currencyCode": "EUR", "units": "9"}, "description": "", "active": False}
    assert "nothing to change" in str(await problem("product", "update", "mug"))


async def test_an_admin_is_made_in_a_database_that_is_named(tmp_path: Path) -> None:
    create = ("admin", "create", "--database-url", f"sqlite:///{tmp_path / 'user.db'}", "--password-stdin")
    made = await weft(*create, "--email", "boss@weft.example", stdin="boss's password")
    assert made.output.startswith("boss@weft.example is an admin (user ")
    assert "exists already" in str(await problem(*create, "--email", "Boss@weft.example", stdin="boss's password"))
    assert "password: must be" in str(await problem(*create, "--email", "eve@weft.example", stdin="short"))
    told = await problem(*create, "--email", "eve@weft.example", "--promote")
    assert "nobody has an account with eve@weft.example" in str(told)
    assert told.exit_code == 1


@pytest.mark.parametrize(("url", "advice"), [("", "no database of user's"), ("nonsense", "WEFT_DATABASE_URL is not")])
async def test_without_a_database_no_admin_is_made(url: str, advice: str) -> None:
    create = ("admin", "create", "--database-url", url, "--email", "boss@weft.example", "--password-stdin")
    told = await problem(*create, stdin="boss's password")
    assert advice in str(told)
    assert told.exit_code == 2


async def test_a_password_is_asked_for_without_being_shown(gateway: FakeGateway) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}
    leader, follower = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "login", ANN),
        env=environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    try:
        # The space comes once the terminal has stopped to echo.
        shown = await asyncio.to_thread(read_until, leader, b"password: ")
        os.write(leader, b"ann's password\n")
        shown += await asyncio.to_thread(read_until, leader, b"signed in as")
        assert await process.wait() == 0
    finally:
        os.close(leader)
    assert b"ann's password" not in shown


def read_until(terminal: int, text: bytes) -> bytes:
    """Return what a terminal shows up to and with `text`, and whatever came along."""
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 1024)
    return shown


# Operators


async def test_a_search_for_gaps_goes_on_until_all_is_looked_at(gateway: FakeGateway) -> None:
    await sign_in()
    event = {"eventType": "commerce.order.v1.OrderCreated", "aggregateId": "o1", "seq": "7"}
    gateway.orders = [
        {"scanned": "500", "missing": [event], "nextSeq": "501", "lastSeq": "800"},
        {"scanned": "300", "missing": [event], "lastSeq": "800"},
    ]
    told = (await weft("redeliver", "payment-from-order", "--since", "10m", "--why", "restored")).output
    assert "looked at 800 messages for payment-from-order; 2 are missing (2 OrderCreated)" in told
    (first, _), (second, _) = ((body, request) for request, body in gateway.requests[-2:])
    assert (set(first) - set(second), second["fromSeq"], second["why"]) == ({"fromTime"}, "501", "restored")


async def test_letters_are_retried_part_by_part_and_what_was_done_is_told_when_a_part_is_refused(
    gateway: FakeGateway,
) -> None:
    await sign_in()
    letters = [{"letterId": f"payment-from-order.{n}"} for n in range(3)]
    gateway.orders = [
        {"letters": letters},
        {"letters": letters[:2], "nextPageToken": "more"},
        {"letters": letters[2:]},
    ]
    retry = ("dlq", "retry", "--service", "payment", "--all", "--yes")
    assert "3 letters handed over again" in (await weft(*retry)).output
    assert [body.get("pageToken") for _, body in gateway.requests[-2:]] == [None, "more"]
    gateway.orders = [{"letters": letters[:1]}]
    named = (f"{service}-from-order.1" for service in ("payment", "inventory"))
    asked = len(gateway.requests)
    gateway.faults = [
        lambda: web.json_response({"letters": letters[:1]}),
        lambda: refuse(5, "there is no letter"),
    ]
    result = await weft("dlq", "retry", *named)
    assert "1 letter handed over again" in result.output
    assert str(result.exception) == "NOT_FOUND: there is no letter"
    assert len(gateway.requests) == asked + 2


async def test_what_was_done_about_an_order_is_found_by_its_id(gateway: FakeGateway) -> None:
    await sign_in()
    itself = {"actionId": "1", "action": "cancel_order", "target": "o1"}
    event = {"actionId": "8", "action": "retry", "target": "e", "outcome": "order-from-payment.7: PaymentFailed of o1"}
    another = {
        "actionId": "9",
        "action": "retry",
        "target": "e",
        "outcome": "order-from-payment.8: PaymentFailed of o12",
    }
    gateway.orders = [{"actions": [itself]}, {"actions": [another, event]}]
    found = json.loads((await weft("audit", "--service", "order", "--order", "o1", "--json")).output)["actions"]
    assert sorted(one["actionId"] for one in found) == ["1", "8"]


async def test_a_rebuild_is_followed_to_its_end(gateway: FakeGateway) -> None:
    await sign_in()
    model = {"readModel": "history", "generation": 1, "building": 2}
    built = {"readModel": "history", "generation": 2}
    gateway.orders = [model, {"readModels": [model]}, {"readModels": [built]}]
    assert (await weft("rebuild", "order", "history")).output == "history is built: build 2 serves\n"


async def test_a_service_that_is_away_is_named_and_the_rest_is_shown(gateway: FakeGateway) -> None:
    await sign_in()
    gateway.orders = [{"letters": []}]
    gateway.faults = [lambda: refuse(14, "not reachable now")]
    result = await weft("dlq", "list", "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["away"]) == 1
    assert "is away, and what it has is missing: UNAVAILABLE" in result.stderr


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("dlq retry", "say which letters"),
        ("dlq retry payment-from-order.7 --all", "not both"),
        ("dlq retry nobody.7", "names no service"),
        ("dlq drop --service nobody --why x", "there is no service 'nobody'"),
        ("dlq list --consumer payment-from-order --service order", "is payment's, and not order's"),
        ("dlq list --older-than soon", "write a number and s, m, h or d"),
        ("redeliver payment-from-order --since tomorrow", "write a time"),
        ("outbox republish --since 7", "add --service"),
        ("order cancel o1 --as-operator", "--as-operator and --why belong together"),
        ("order list --older-than 1m", "add --stuck"),
    ],
)
async def test_what_an_operator_cannot_mean_is_told(gateway: FakeGateway, line: str, why: str) -> None:
    await sign_in()
    asked = gateway.asked.total()
    found = await problem(*line.split())
    assert why in str(found)
    assert (found.exit_code, gateway.asked.total()) == (2, asked)
