"""What people type at `weft`, and what they are told when a service refuses."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cli.errors import Problem
from cli.main import app
from cli.parsing import parse_address, parse_line, parse_price
from cli.rest import at, explain, normalise
from cli.sessions import Session, Sessions
from cli.tokens import claims_of

if TYPE_CHECKING:
    from pathlib import Path


def refusal(code: int, message: str, *violations: tuple[str, str]) -> dict[str, Any]:
    """A `google.rpc.Status` as a gateway answers it."""
    found = [{"field": field, "description": text} for field, text in violations]
    detail = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": found}
    return {"code": code, "message": message, "details": [detail] if found else []}


def session(email: str = "ann@weft.example", admin_of: str = "") -> Session:
    return Session(email, "an access token", 1e12, "a refresh token", admin_of)


def test_a_line_is_a_sku_and_a_quantity_which_is_one_if_absent() -> None:
    assert (parse_line("mug:12").sku, parse_line("mug:12").quantity) == ("mug", 12)
    assert parse_line("mug").quantity == 1


@pytest.mark.parametrize("text", ["mug:two", "mug:1.5", f"mug:{2**40}"])
def test_a_line_whose_quantity_is_no_number_says_how_to_write_it(text: str) -> None:
    with pytest.raises(Problem, match="as in mug:2"):
        parse_line(text)


def test_an_address_ends_with_its_country() -> None:
    address = parse_address("1 Sample Street, 10115 Berlin, de")
    assert list(address.address_lines) == ["1 Sample Street", "10115 Berlin"]
    assert address.region_code == "DE"


@pytest.mark.parametrize("text", ["12.50 EUR", "12.5eur", " 12.500000000 EUR "])
def test_a_price_is_an_amount_and_a_currency(text: str) -> None:
    assert str(parse_price(text)) == "12.50 EUR"


@pytest.mark.parametrize("text", ["", "12.50", "EUR", "-1 EUR", "1e3 EUR", "1,50 EUR", "99999999999 EUR", "NaN EUR"])
def test_what_is_no_price_says_how_to_write_one(text: str) -> None:
    with pytest.raises(Problem, match=r"as in '12\.50 EUR'"):
        parse_price(text)


def test_a_refusal_is_one_line() -> None:
    assert str(explain(refusal(5, "there is no order 'x'"))) == "NOT_FOUND: there is no order 'x'"


def test_a_refusal_of_fields_names_each_on_a_line_of_its_own() -> None:
    wrong = [("lines[0].quantity", "must be at least 1"), ("paymentToken", "is required")]
    failed = explain(refusal(3, "bad", *wrong))
    assert str(failed).splitlines() == [
        "INVALID_ARGUMENT: not accepted",
        "  lines[0].quantity: must be at least 1",
        "  paymentToken: is required",
    ]
    assert failed.fields == ("lines[0].quantity", "paymentToken")


def test_a_refusal_says_when_to_try_again() -> None:
    told = refusal(8, "too many failures")
    told["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}]
    assert str(explain(told)) == "RESOURCE_EXHAUSTED: too many failures\n  try again in 30 s"


@pytest.mark.parametrize("code", [99, "x", None])
def test_a_refusal_with_an_unheard_of_code_is_told_all_the_same(code: object) -> None:
    assert str(explain({"code": code, "message": "no"})) == "UNKNOWN: no"


@pytest.mark.parametrize(
    "text",
    ["http://shop.example:8080", "HTTP://Shop.Example:8080/", " http://shop.example:8080// "],
)
def test_a_gateway_has_one_address_however_it_is_written(text: str) -> None:
    assert normalise(text) == "http://shop.example:8080"


def test_the_address_of_a_gateway_keeps_its_path_and_its_brackets() -> None:
    assert normalise("https://shop.example/api/") == "https://shop.example/api"
    assert normalise("http://[::1]:8080") == "http://[::1]:8080"


@pytest.mark.parametrize("text", ["", "shop", "shop.example:80", "ftp://a", "http://", "http://a:b@c", "http://a?b=c"])
def test_what_is_no_address_of_a_gateway_says_how_to_write_one(text: str) -> None:
    with pytest.raises(Problem, match="write it as in http://"):
        normalise(text)


def test_an_id_never_becomes_another_path() -> None:
    assert at("/v1/orders/{}:cancel", "a/b?c#d e%2F:x") == "/v1/orders/a%2Fb%3Fc%23d%20e%252F%3Ax:cancel"
    with pytest.raises(Problem, match="empty"):
        at("/v1/orders/{}", "")


def test_a_session_is_kept_for_its_gateway_until_it_is_forgotten(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.keep("http://a", session("ann@weft.example"))
    sessions.keep("http://b", session("bob@weft.example", admin_of="/somewhere"))
    assert Sessions(tmp_path).find("http://a") == session("ann@weft.example")
    sessions.forget("http://a")
    assert sessions.find("http://a") is None
    assert sessions.find("http://b") == session("bob@weft.example", admin_of="/somewhere")


async def test_sessions_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "state" / "weft")
    async with sessions.locked():
        sessions.keep("http://a", session())
    assert stat.S_IMODE(sessions.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(sessions.path.parent.stat().st_mode) == 0o700
    assert "an access token" not in repr(session())
    assert "a refresh token" not in repr(session())


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"http://a": 1}', '{"http://a": {"email": "x"}}'])
def test_a_damaged_file_of_sessions_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    sessions = Sessions(tmp_path)
    sessions.path.write_text(content)
    assert sessions.find("http://a") is None
    sessions.keep("http://a", session())
    assert sessions.find("http://a") == session()
    assert json.loads(sessions.path.read_text())


def test_sessions_are_where_the_base_directories_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Sessions.of_this_user().path == tmp_path / "weft" / "sessions.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    for none in ("", "relative/folder"):
        monkeypatch.setenv("XDG_STATE_HOME", none)
        assert Sessions.of_this_user().path == tmp_path / ".local" / "state" / "weft" / "sessions.json"


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "a.e30.c", "a.W10.c", "a.\u20ac.c"])
def test_what_is_no_token_of_a_user_is_told(text: str) -> None:
    with pytest.raises(Problem, match="no JSON Web Token"):
        claims_of(text)


COMMANDS = [
    "",
    "up",
    "down",
    "demo",
    "login",
    "logout",
    "whoami",
    "admin create",
    *(f"order {name}" for name in ("place", "show", "list", "cancel")),
    *(f"product {name}" for name in ("add", "update", "show", "list")),
    *(f"stock {name}" for name in ("add", "show")),
    *(f"shipment {name}" for name in ("dispatch", "deliver")),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_without_a_running_system_one_is_told_to_start_it(tmp_path: object) -> None:
    result = CliRunner().invoke(app, ["order", "list", "--data", str(tmp_path)])
    assert isinstance(result.exception, Problem)
    assert f"start it with `weft up --data {tmp_path}`" in str(result.exception)
    assert result.exception.exit_code == 2


def test_a_command_that_talks_to_a_gateway_starts_without_what_only_services_need() -> None:
    program = "import cli.main, cli.orders, cli.catalogue, cli.accounts, cli.demo, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"grpc", "sqlalchemy", "nats", "pydantic"} & set(loaded)
