"""Page sizes and page tokens of the list methods."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from commerce.order.v1.order_service_pb2 import ORDER_STATE_PENDING, ListOrdersRequest
from commerce.payment.v1.payment_service_pb2 import ListPaymentsRequest
from weft.domain import InvalidInput
from weft.pages import Listing, PageRequest

KEY = b"k" * 32
FIRST = PageRequest.of(ListOrdersRequest(user_id="ann"))


def after(token: str, wanted: PageRequest = FIRST, key: bytes = KEY) -> Listing:
    """Return a list of which the page with this token is wanted."""
    return Listing(key, replace(wanted, token=token))


def fields_at_fault(listing: Listing, *kinds: Any) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        listing.position(*kinds)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (1000, 1000)])
def test_a_page_has_the_size_that_was_asked_for_and_fifty_by_default(asked: int, given: int) -> None:
    assert PageRequest.of(ListOrdersRequest(page_size=asked)).size == given


@pytest.mark.parametrize("asked", [-1, 1001])
def test_a_size_that_cannot_be_is_refused_by_name(asked: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        PageRequest.of(ListOrdersRequest(page_size=asked))
    assert [violation.field for violation in caught.value.violations] == ["page_size"]


@pytest.mark.parametrize(("position", "kinds"), [(("sku-1",), (str,)), ((-5, "é/+ä"), (int, str)), ((0,), (int,))])
def test_a_token_leads_back_to_its_position(
    position: tuple[str | int, ...], kinds: tuple[type[str] | type[int], ...]
) -> None:
    token = after("").token_of(*position)
    assert after(token).position(*kinds) == position
    assert token.isascii()
    assert not set(token) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_no_token_means_the_first_page() -> None:
    assert after("").position(str) is None


@pytest.mark.parametrize("token", ["!", "A", "é", "x" * 5000, urlsafe_b64encode(b'["sku-1"]').decode().rstrip("=")])
def test_a_token_that_somebody_made_up_is_refused_by_name(token: str) -> None:
    assert fields_at_fault(after(token), str) == ["page_token"]


@given(st.data())
def test_a_token_with_any_bit_changed_is_refused(data: st.DataObject) -> None:
    token = after("").token_of("sku-1")
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert fields_at_fault(after(urlsafe_b64encode(raw).decode().rstrip("=")), str) == ["page_token"]


@given(st.data())
def test_a_token_with_any_character_changed_or_added_is_refused(data: st.DataObject) -> None:
    """Also where it would still be read as the same bytes: in the bits and signs that base64 does not use."""
    token = after("").token_of("sku-1")
    at, kept = data.draw(st.integers(0, len(token))), data.draw(st.booleans())
    other = data.draw(st.characters(min_codepoint=0x21, max_codepoint=0x7E))
    changed = token[:at] + other + token[at + (not kept) :]
    assume(changed != token)
    assert fields_at_fault(after(changed), str) == ["page_token"]


@pytest.mark.parametrize(
    "other",
    [
        ListOrdersRequest(),
        ListOrdersRequest(user_id="bob"),
        ListOrdersRequest(user_id="ann", state=ORDER_STATE_PENDING),
        ListPaymentsRequest(),
    ],
)
def test_a_token_is_good_for_no_other_list_and_no_other_filter(other: Any) -> None:
    assert fields_at_fault(after(after("").token_of("a"), PageRequest.of(other)), str) == ["page_token"]


def test_pages_of_one_list_may_be_of_different_sizes() -> None:
    token = after("").token_of("a")
    larger = PageRequest.of(ListOrdersRequest(user_id="ann", page_size=7, page_token=token))
    assert (Listing(KEY, larger).position(str), larger.size) == (("a",), 7)


def test_a_token_of_another_services_key_is_refused() -> None:
    assert fields_at_fault(after(after("", key=b"other").token_of("a")), str) == ["page_token"]


def test_a_token_of_a_program_whose_positions_were_others_is_refused() -> None:
    for position in (("a", 1), (1,), ()):
        assert fields_at_fault(after(after("").token_of(*position)), str) == ["page_token"]


def test_pages_follow_each_other_until_the_last() -> None:
    rows, seen, token = [f"sku-{n}" for n in range(5)], [], ""
    for _ in range(3):
        listing = after(token, replace(FIRST, size=2))
        position = listing.position(str)
        left = [row for row in rows if position is None or row > str(position[0])]
        page, token = listing.cut(left[:3], lambda row: (row,))
        seen.append(list(page))

    assert seen == [["sku-0", "sku-1"], ["sku-2", "sku-3"], ["sku-4"]]
    assert token == ""


def test_a_full_last_page_is_the_last() -> None:
    assert after("", replace(FIRST, size=2)).cut(["a", "b"], lambda row: (row,)) == (["a", "b"], "")
