"""Money is exact, and the same on its way out and back in."""

import pytest
from google.type.money_pb2 import Money as MoneyMessage
from hypothesis import given
from hypothesis import strategies as st

from weft.domain import Money

LIMIT = 2**63 - 1
NANOS = 1_000_000_000
AMOUNTS = st.integers(-LIMIT, LIMIT)
MONEY = st.builds(Money, st.just("CHF"), AMOUNTS)


@given(MONEY)
def test_an_amount_survives_the_way_out_and_back(money: Money) -> None:
    assert Money.of(money.message()) == money


@given(MONEY)
def test_a_message_is_well_formed(money: Money) -> None:
    message = money.message()
    assert -NANOS < message.nanos < NANOS
    assert message.units * message.nanos >= 0
    assert message.units * NANOS + message.nanos == money.nanos


@given(MONEY, MONEY)
def test_sums_are_exact_in_either_order(one: Money, other: Money) -> None:
    assert one + other == other + one == Money("CHF", one.nanos + other.nanos)


@given(MONEY, st.integers(0, 10_000))
def test_many_pieces_cost_as_much_as_adding_them_up(price: Money, count: int) -> None:
    assert (price * count).nanos == price.nanos * count
    assert price * count + price == price * (count + 1)


@given(MONEY)
def test_people_read_the_exact_amount(money: Money) -> None:
    number, currency = str(money).split()
    units, decimals = number.lstrip("-").split(".")
    sign = -1 if number.startswith("-") else 1
    assert currency == "CHF"
    assert 2 <= len(decimals) <= 9
    assert sign * int(units + decimals.ljust(9, "0")) == money.nanos


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (12_500_000_000, "12.50 EUR"),
        (-500_000_000, "-0.50 EUR"),
        (1, "0.000000001 EUR"),
        (0, "0.00 EUR"),
    ],
)
def test_people_see_two_decimals_and_more_only_where_there_are_any(nanos: int, text: str) -> None:
    assert str(Money("EUR", nanos)) == text


def test_two_currencies_are_never_added() -> None:
    with pytest.raises(ValueError, match="cannot add EUR to CHF"):
        Money("CHF", 1) + Money("EUR", 1)


@given(AMOUNTS)
def test_what_a_message_can_carry_fits(nanos: int) -> None:
    assert Money("CHF", nanos).fits


@pytest.mark.parametrize("nanos", [LIMIT + 1, -LIMIT - 1])
def test_what_is_larger_does_not_fit(nanos: int) -> None:
    assert not Money("CHF", nanos).fits


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (MoneyMessage(currency_code="", units=1), "currency_code"),
        (MoneyMessage(currency_code="chf", units=1), "currency_code"),
        (MoneyMessage(currency_code="CHFX", units=1), "currency_code"),
        (MoneyMessage(currency_code="CHF", nanos=NANOS), "nanos must be between"),
        (MoneyMessage(currency_code="CHF", nanos=-NANOS), "nanos must be between"),
        (MoneyMessage(currency_code="CHF", units=1, nanos=-1), "same sign"),
        (MoneyMessage(currency_code="CHF", units=-1, nanos=1), "same sign"),
        (MoneyMessage(currency_code="CHF", units=LIMIT // NANOS + 1), "too large"),
        (MoneyMessage(currency_code="CHF", units=-(2**63)), "too large"),
    ],
)
def test_a_malformed_amount_is_refused(message: MoneyMessage, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Money.of(message)
