"""Entity tags: what becomes of the text of an etag, and of what clients say about theirs."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.http.etags import Tags, guard_of, header_of
from gateway.http.requests import Headers
from tests.gateway_probe import message

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

ENTITY_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e]*"')  # RFC 9110, 8.8.3
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SHELF: Any = message("Shelf")
DELETE = guard_of("DELETE", message("DeleteShelfRequest"), "")


def fill(if_match: bytes) -> str:
    """Return what a request has as its etag for an If-Match."""
    encoded = DELETE.fill(b"", "DELETE", Headers([(b"if-match", if_match)]))
    made: Any = message("DeleteShelfRequest").FromString(encoded)
    return str(made.etag)


@given(TEXT)
@example('"v1"')
@example('W/"v1"')
@example('"="')
@example('"=YQ=="')
@example("a\r\nset-cookie: b")
def test_the_etag_of_an_answer_comes_back_to_the_service_as_it_was(etag: str) -> None:
    tag = header_of(etag)
    assert ENTITY_TAG.fullmatch(tag)
    assert fill(tag) == etag


@given(TEXT, TEXT)
def test_different_etags_have_different_tags(one: str, other: str) -> None:
    assert (header_of(one) == header_of(other)) is (one == other)


@pytest.mark.parametrize("tag", [b'"="', b'"=!"', b'"=/w=="', b'"=YQ"'])
def test_a_tag_that_nothing_has_stays_as_it_is_and_matches_nothing(tag: bytes) -> None:
    assert fill(tag) == tag.decode()


@given(st.binary(max_size=20))
def test_no_if_match_makes_an_error_of_the_gateways_own(value: bytes) -> None:
    headers = Headers([(b"if-match", value)])
    with suppress(Refusal):
        DELETE.fill(b"", "DELETE", headers)


@given(TEXT, st.binary(max_size=20))
def test_no_if_none_match_makes_an_error_and_one_that_is_no_tag_matches_nothing(etag: str, known: bytes) -> None:
    tagged = Tags("", own=True).apply(SHELF(etag=etag), lambda _: b"{}", known)
    assert (tagged.body is None) <= (known.strip() == b"*" or b'"' in known)


def test_an_answer_that_the_client_has_is_not_even_written() -> None:
    def write(_: object) -> bytes:
        raise AssertionError("it is written")

    assert Tags("", own=True).apply(SHELF(etag='"v1"'), write, b'"v1"').body is None


def test_what_a_browser_keeps_for_one_user_is_not_asked_about_for_another() -> None:
    for known in (None, b'"v1"'):
        headers = Tags("", own=True).apply(SHELF(etag='"v1"'), lambda _: b"{}", known).headers
        assert (b"vary", b"authorization, accept-language") in headers


def test_a_message_whose_etag_is_empty_is_tagged_by_its_body() -> None:
    writers: list[Callable[[Message], bytes]] = [lambda _: b"a", lambda _: b"b"]
    tags = {Tags("", own=True).apply(SHELF(), write, None).headers[0][1] for write in writers}
    assert len(tags) == 2
    assert all(tag.startswith(b'W/"') for tag in tags)
