"""Rate limits: what buckets give out, for whose address a request counts, and what answers say of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import pytest
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.addresses import Addresses, site_of
from gateway.admission.buckets import Buckets
from gateway.admission.rates import Limit, told, too_many

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

SECOND = 1_000_000_000
PAUSES = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.sampled_from("ab")), max_size=80)


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


@given(rate=st.floats(0.1, 1000), burst=st.integers(1, 20), calls=PAUSES)
def test_nobody_ever_gets_more_than_the_rate_and_the_burst(
    rate: float, burst: int, calls: list[tuple[int, str]]
) -> None:
    time = Time()
    buckets = Buckets(rate, burst, clock=time)
    given_out: dict[str, list[int]] = {"a": [], "b": []}
    for pause, key in calls:
        time.now += pause
        if buckets.take(key) >= 0:
            given_out[key].append(time.now)
    for times in given_out.values():
        for first, began in enumerate(times):
            for number, at in enumerate(times[first:], 1):
                assert number <= rate * (at - began) / SECOND + burst + 1e-6


@given(rate=st.floats(0.1, 1000), burst=st.integers(1, 20), calls=PAUSES)
def test_whoever_is_refused_gets_one_after_as_long_as_they_are_told(
    rate: float, burst: int, calls: list[tuple[int, str]]
) -> None:
    time = Time()
    buckets = Buckets(rate, burst, clock=time)
    for pause, key in calls:
        time.now += pause
        if (left := buckets.take(key)) < 0:
            assert -left <= buckets.interval
            time.now += -left - 1
            assert buckets.take(key) < 0
            time.now += 1
            assert buckets.take(key) == 0


@given(rate=st.floats(0.1, 1000), burst=st.integers(1, 20), pauses=st.lists(st.integers(0, SECOND), max_size=50))
def test_a_bucket_that_nobody_else_uses_is_like_a_plain_count(rate: float, burst: int, pauses: list[int]) -> None:
    time = Time()
    buckets, there = Buckets(rate, burst, clock=time), burst * math.ceil(SECOND / rate)
    for pause in pauses:
        time.now += pause
        there = min(buckets.span, there + pause)
        if there >= buckets.interval:
            there -= buckets.interval
            assert buckets.take("a") == there
        else:
            assert buckets.take("a") < 0


def test_full_buckets_are_forgotten() -> None:
    time = Time()
    buckets = Buckets(10, 5, clock=time)
    for number in range(1000):
        buckets.take(f"caller {number}")
        time.now += SECOND // 100
    assert len(buckets) <= 11  # of the last tenth of a second, in which a bucket gets back what was taken


def test_there_are_never_more_buckets_than_allowed_whoever_comes() -> None:
    buckets = Buckets(0.001, 5, most=100, clock=Time())
    for number in range(1000):
        buckets.take(f"caller {number}")
    assert len(buckets) == 100
    assert buckets.take("caller 999") == 3 * buckets.interval


def test_answers_say_what_is_left_and_when_there_is_more() -> None:
    time = Time()
    address = Limit("address", 10, 25, clock=time)
    user = Limit("user", 0.5, 2, clock=time)
    headers = dict(told([address.take("1.2.3.4"), user.take("ann")]))
    assert headers == {
        b"ratelimit-policy": b'"address";q=25;w=3, "user";q=2;w=4',
        b"ratelimit": b'"address";r=24;t=1, "user";r=1;t=2',
    }
    assert told([]) == ()


def test_a_refusal_says_who_has_too_much_and_when_to_come_again() -> None:
    user = Limit("user", 0.5, 1, clock=Time())
    assert not user.take("ann").spent
    share = user.take("ann")
    error = too_many([share])
    details: list[Any] = [QuotaFailure(), RetryInfo()]
    for detail in details:
        assert any(one.Unpack(detail) for one in error.status.details)
    quota, retry = details
    assert (share.spent, error.http, error.status.code) == (True, 429, 8)
    assert (quota.violations[0].subject, retry.retry_delay.seconds) == ("user:ann", 2)
    assert dict(error.headers)[b"ratelimit"] == b'"user";r=0;t=2'


def scope(peer: str, *forwarded: str) -> HTTPScope:
    """Return a request from `peer` with these X-Forwarded-For headers."""
    headers = [(b"host", b"a"), *((b"x-forwarded-for", one.encode()) for one in forwarded)]
    return cast("HTTPScope", {"client": (peer, 1) if peer else None, "headers": headers})


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("9.9.9.9", (), "9.9.9.9"),
        ("9.9.9.9", ("1.1.1.1",), "9.9.9.9"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
        ("10.0.0.1", ("6.6.6.6, 1.1.1.1",), "1.1.1.1"),
        ("10.0.0.1", ("6.6.6.6", "1.1.1.1"), "1.1.1.1"),
        ("10.0.0.1", ("6.6.6.6, 1.1.1.1, 10.0.0.2",), "1.1.1.1"),
        ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        ("10.0.0.1", ("1.1.1.1, rubbish",), "10.0.0.1"),
        ("10.0.0.1", ("1.1.1.1, rubbish, 10.0.0.2",), "10.0.0.2"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        ("10.0.0.1", ("1.1.1.1:4711",), "1.1.1.1"),
        ("10.0.0.1", ("[2001:db8:1:2:3::4]:4711",), "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
        ("fd00::1", ("2001:db8::1",), "2001:db8::/64"),
        ("", ("1.1.1.1",), ""),
    ],
)
def test_proxies_that_are_trusted_say_for_whom_a_request_counts_and_nobody_else(
    peer: str, forwarded: tuple[str, ...], counted: str
) -> None:
    assert Addresses(["10.0.0.0/8", "fd00::/8"]).of(scope(peer, *forwarded)) == counted


def test_without_trusted_proxies_the_peer_counts() -> None:
    assert Addresses([]).of(scope("10.0.0.1", "1.1.1.1")) == "10.0.0.1"


@given(st.ip_addresses(v=6))
def test_ipv6_counts_by_the_network_that_a_customer_has_to_themselves(address: Any) -> None:
    if address.ipv4_mapped:
        assert site_of(str(address)) == str(address.ipv4_mapped)
    else:
        neighbour = type(address)(int(address) ^ 1)
        assert site_of(str(address)) == site_of(str(neighbour)) != str(address)
        assert site_of(str(address)).endswith("/64")
