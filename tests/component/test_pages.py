"""Page sizes and page tokens of the list methods."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest

from weft import pages
from weft.domain import InvalidInput


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (1000, 1000)])
def test_a_page_has_the_size_that_was_asked_for_and_fifty_by_default(asked: int, given: int) -> None:
    assert pages.size_of(asked) == given


@pytest.mark.parametrize("asked", [-1, 1001])
def test_a_size_that_cannot_be_is_refused_by_name(asked: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        pages.size_of(asked)
    assert [violation.field for violation in caught.value.violations] == ["page_size"]


@pytest.mark.parametrize(("position", "kinds"), [(("sku-1",), (str,)), ((-5, "é/+ä"), (int, str)), ((0,), (int,))])
def test_a_token_leads_back_to_its_position(
    position: tuple[str | int, ...], kinds: tuple[type[str] | type[int], ...]
) -> None:
    token = pages.token_of(*position)
    assert pages.position_of(token, *kinds) == position
    assert token.isascii()
    assert not set(token) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_no_token_means_the_first_page() -> None:
    assert pages.position_of("", str) is None


def encoded(text: str) -> str:
    """Return a token that somebody made up."""
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "!",
        "A",
        "é",
        encoded("no JSON"),
        encoded("{}"),
        encoded("[]"),
        encoded("[1]"),
        encoded('["a", "b"]'),
        encoded("[true]"),
        encoded("[null]"),
        encoded('["nul \\u0000"]'),
        pages.token_of("x" * 5000),
    ],
)
def test_a_token_of_no_list_is_refused_by_name(token: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pages.position_of(token, str)
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


@pytest.mark.parametrize("number", ["true", "9223372036854775808", "1.5", '"1"'])
def test_a_number_that_no_database_takes_is_refused(number: str) -> None:
    with pytest.raises(InvalidInput):
        pages.position_of(encoded(f"[{number}]"), int)


def test_pages_follow_each_other_until_the_last() -> None:
    rows, seen, token = [f"sku-{n}" for n in range(5)], [], ""
    for _ in range(3):
        position = pages.position_of(token, str)
        after = [row for row in rows if position is None or row > str(position[0])]
        page, token = pages.cut(after[:3], 2, lambda row: (row,))
        seen.append(list(page))

    assert seen == [["sku-0", "sku-1"], ["sku-2", "sku-3"], ["sku-4"]]
    assert token == ""


def test_a_full_last_page_is_the_last() -> None:
    assert pages.cut(["a", "b"], 2, lambda row: (row,)) == (["a", "b"], "")
