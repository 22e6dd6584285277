"""What people type at `weft`, and what they are told when a service refuses."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from typer.testing import CliRunner

from cli.catalogue import parse_price
from cli.errors import Problem
from cli.main import app
from cli.orders import parse_address, parse_line
from cli.remote import explain


class Refusal(grpc.RpcError):
    """A failed call, as a client sees it."""

    def __init__(self, code: grpc.StatusCode, details: str, *violations: tuple[str, str]) -> None:
        self._code, self._details = code, details
        found = [BadRequest.FieldViolation(field=field, description=text) for field, text in violations]
        packed = Packed()
        packed.Pack(BadRequest(field_violations=found))
        self._status = Status(details=[packed]) if found else Status()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", self._status.SerializeToString()),)


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
    assert explain(Refusal(grpc.StatusCode.NOT_FOUND, "there is no order 'x'")) == "NOT_FOUND: there is no order 'x'"


def test_a_refusal_of_fields_names_each_on_a_line_of_its_own() -> None:
    wrong = [("lines[0].quantity", "must be at least 1"), ("payment_token", "is required")]
    told = explain(Refusal(grpc.StatusCode.INVALID_ARGUMENT, "bad", *wrong))
    assert told.splitlines() == [
        "INVALID_ARGUMENT: not accepted",
        "  lines[0].quantity: must be at least 1",
        "  payment_token: is required",
    ]


@pytest.mark.parametrize("command", ["", "up", "down", "demo", "order place", "order show", "order list", "stock add"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_without_a_running_system_one_is_told_to_start_it(tmp_path: object) -> None:
    result = CliRunner().invoke(app, ["order", "list", "--data", str(tmp_path)])
    assert isinstance(result.exception, Problem)
    assert f"start it with `weft up --data {tmp_path}`" in str(result.exception)
    assert result.exception.exit_code == 2
