"""User's decisions on their own: accounts, attempts to sign in, sessions, signing keys, passwords."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.type.postal_address_pb2 import PostalAddress
from hypothesis import given
from hypothesis import strategies as st

from commerce.user.v1.user_events_pb2 import UserRegistered, UserUpdated
from services.user.admin import read_admin_file
from services.user.domain import (
    FREE_FAILURES,
    GRACE,
    LONGEST_LOCK,
    Role,
    Session,
    SignInAttempts,
    User,
    check_registration,
    hash_email,
    normalise_email,
)
from services.user.keys import Schedule, SigningKey, first_or_next, retired, signing_one, web_key
from services.user.passwords import Passwords
from services.user.settings import Settings
from services.user.tokens import AccessTokens, hash_token, new_refresh_token, new_session_id, session_in
from weft import CannotStart, identity
from weft.domain import Exhausted, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
MINUTE = timedelta(minutes=1)
BERN = PostalAddress(region_code="CH", address_lines=["Bundesplatz 3", "3005 Bern"])
BERN_BYTES = BERN.SerializeToString()
GOOD: dict[str, Any] = {"email": "ann@example.com", "password": "correct horse"}


def registered(**changed: Any) -> User:
    """Return an account whose registration has been published already."""
    fields: dict[str, Any] = {
        "user_id": "ann",
        "email": "ann@example.com",
        "password_hash": "secret",
        "now": NOW,
    } | changed
    user = User.register(**fields)
    user.take_recorded()
    return user


def wrong_fields(call: Callable[..., object], **arguments: Any) -> list[str]:
    with pytest.raises(InvalidInput) as error:
        call(**arguments)
    return [one.field for one in error.value.violations]


def hasher(**changed: Any) -> PasswordHasher:
    """Return one that costs next to nothing."""
    cost = {"time_cost": CHEAPEST.time_cost, "memory_cost": CHEAPEST.memory_cost, "parallelism": CHEAPEST.parallelism}
    return PasswordHasher(**cost | changed)


# Accounts


def test_a_new_account_is_a_customers_and_tells_no_more_than_copies_need() -> None:
    user = User.register(user_id="ann", email="ann@example.com", password_hash="secret", address=BERN, now=NOW)
    assert (user.role, user.revision, user.password_revision) == (Role.CUSTOMER, 1, 1)
    assert (user.display_name, user.create_time, user.update_time) == ("ann", NOW, NOW)
    assert user.take_recorded() == [UserRegistered(user_id="ann", address=BERN, revision=1)]


def test_a_name_that_is_given_is_trimmed() -> None:
    assert registered(display_name=" Ann B. ").display_name == "Ann B."


def test_a_change_raises_the_revision_and_tells_the_whole_new_state() -> None:
    user = registered()
    user.change(display_name="Ann", address=BERN, now=LATER)
    assert (user.display_name, user.address, user.revision) == ("Ann", BERN, 2)
    assert (user.create_time, user.update_time) == (NOW, LATER)
    assert user.take_recorded() == [UserUpdated(user_id="ann", address=BERN, revision=2)]


def test_a_name_and_an_address_can_be_taken_away() -> None:
    user = registered(display_name="Ann", address=BERN)
    user.change(display_name="", address=None, now=LATER)
    assert (user.display_name, user.address) == ("ann", None)
    assert user.take_recorded() == [UserUpdated(user_id="ann", revision=2)]


@pytest.mark.parametrize("same", [{}, {"display_name": " ann "}, {"address": PostalAddress.FromString(BERN_BYTES)}])
def test_a_change_to_the_same_is_no_change(same: dict[str, Any]) -> None:
    user = registered(address=BERN)
    user.change(**same, now=LATER)
    assert (user.revision, user.update_time, user.take_recorded()) == (1, NOW, [])


def test_a_wrong_change_names_every_wrong_field_and_changes_nothing() -> None:
    user = registered()
    fields = wrong_fields(user.change, display_name="x" * 201, address=PostalAddress(region_code="CH"), now=LATER)
    assert fields == ["user.display_name", "user.address.address_lines"]
    assert (user.display_name, user.address, user.revision) == ("ann", None, 1)


def test_an_admin_is_made_once() -> None:
    user = registered()
    user.promote(LATER)
    user.promote(LATER)
    assert (user.role, user.revision) == (Role.ADMIN, 2)
    assert user.take_recorded() == [UserUpdated(user_id="ann", revision=2)]


def test_a_new_password_is_nobodys_business() -> None:
    user = registered()
    user.set_password("another")
    assert (user.password_hash, user.password_revision) == ("another", 2)
    assert (user.revision, user.take_recorded()) == (1, [])


def test_roles_are_those_that_the_chassis_knows() -> None:
    assert {role.name: role.value for role in Role} == {role.name: role.value for role in identity.Role}


# What may be registered


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"email": ""}, ["email"]),
        ({"email": "ann"}, ["email"]),
        ({"email": "ann@localhost"}, ["email"]),
        ({"email": " ann@example.com"}, ["email"]),
        ({"email": "ann\0@example.com"}, ["email"]),
        ({"email": "Ann <ann@example.com>"}, ["email"]),
        ({"email": f"{'x' * 64}@{'y' * 60}.{'y' * 60}.{'y' * 60}.example"}, ["email"]),
        ({"password": ""}, ["password"]),
        ({"password": "x" * 7}, ["password"]),
        ({"password": "x" * 129}, ["password"]),
        ({"password": "\ud800" * 8}, ["password"]),
        ({"display_name": "x" * 201}, ["display_name"]),
        ({"display_name": "nul\0"}, ["display_name"]),
        ({"address": PostalAddress()}, ["address.region_code", "address.address_lines"]),
        ({"address": PostalAddress(region_code="ch", address_lines=["x"])}, ["address.region_code"]),
        ({"address": PostalAddress(region_code="CH", address_lines=[" "])}, ["address.address_lines"]),
        ({"address": PostalAddress(region_code="CH", address_lines=["x"] * 11)}, ["address.address_lines"]),
        ({"address": PostalAddress(region_code="CH", address_lines=["x", "y\0"])}, ["address.address_lines[1]"]),
        ({"address": PostalAddress(region_code="CH", address_lines=["x"], locality="y" * 201)}, ["address.locality"]),
        ({"email": "", "password": "", "display_name": "\0"}, ["email", "password", "display_name"]),
    ],
)
def test_every_wrong_field_of_a_registration_is_named(changed: dict[str, Any], fields: list[str]) -> None:
    assert wrong_fields(check_registration, **GOOD | changed) == fields


def test_the_longest_values_are_accepted() -> None:
    check_registration(email=GOOD["email"], password="x" * 128, display_name="x" * 200, address=BERN)


def test_an_email_is_stored_the_same_whatever_its_case() -> None:
    assert {normalise_email(one) for one in ("Ann@Example.com", "ann@example.com", "ANN@EXAMPLE.COM")} == {
        "ann@example.com"
    }


words = st.text(st.characters(codec="utf-8", categories=["L", "M", "N"]), min_size=1, max_size=8)
emails = st.emails() | st.builds("{}@{}.example".format, words, words)


@given(email=emails)
def test_normalising_an_email_again_changes_nothing(email: str) -> None:
    try:
        once = normalise_email(email)
    except ValueError:
        return
    assert normalise_email(once) == once
    assert hash_email(email) == hash_email(once)


@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
def test_attempts_are_counted_under_whatever_is_sent(text: str) -> None:
    assert len(hash_email(text)) == 64


# Attempts to sign in


def test_five_failures_in_a_row_lock_an_email_for_a_minute() -> None:
    attempts = SignInAttempts(email_hash="x")
    for _ in range(FREE_FAILURES + 1):
        attempts.begin(NOW)
    with pytest.raises(Exhausted) as locked:
        attempts.begin(NOW + timedelta(seconds=20))
    assert (locked.value.retry_after, attempts.failures, attempts.last_time) == (40.0, 5, NOW)
    attempts.begin(NOW + MINUTE)


def test_each_further_failure_doubles_the_lock_up_to_a_quarter_of_an_hour() -> None:
    attempts, now, locks = SignInAttempts(email_hash="x"), NOW, []
    for _ in range(200):
        attempts.begin(now)
        locks.append(max(attempts.locked_until - now, timedelta(0)) / MINUTE)
        now = max(now, attempts.locked_until)
    assert locks[:9] == [0, 0, 0, 0, 1, 2, 4, 8, 15]
    assert set(locks[9:]) == {LONGEST_LOCK / MINUTE}


def test_a_success_forgets_the_failures_before_it() -> None:
    attempts = SignInAttempts(email_hash="x")
    for _ in range(20):
        for _ in range(FREE_FAILURES + 1):
            attempts.begin(NOW)
        attempts.succeeded()


@given(pauses=st.lists(st.floats(0, 3600), max_size=60))
def test_nobody_gets_more_guesses_than_the_locks_leave(pauses: list[float]) -> None:
    attempts, now, taken = SignInAttempts(email_hash="x"), NOW, []
    for pause in pauses:
        now += timedelta(seconds=pause)
        with suppress(Exhausted):
            attempts.begin(now)
            taken.append(now)
    for n, (one, following) in enumerate(zip(taken[FREE_FAILURES:], taken[FREE_FAILURES + 1 :], strict=False)):
        assert following - one >= min(MINUTE * 2**n, LONGEST_LOCK)


# Sessions


def began(*current: str) -> Session:
    return Session(
        session_id="s",
        user_id="ann",
        password_revision=1,
        current=current or ("t1",),
        create_time=NOW,
        expire_time=NOW + timedelta(days=30),
    )


def test_a_refresh_token_is_used_up_by_the_next() -> None:
    session = began()
    assert session.renew("t1", "t2", NOW)
    assert session.renew("t2", "t3", LATER)
    assert session.current == ("t3",)


def test_a_token_that_was_used_up_ends_the_session_for_everybody() -> None:
    session = began()
    session.renew("t1", "t2", NOW)
    session.renew("t2", "t3", NOW)
    assert not session.renew("t1", "t4", NOW)
    assert session.expire_time == NOW
    assert not session.renew("t3", "t4", NOW)


def test_a_token_that_was_never_given_ends_the_session() -> None:
    session = began()
    assert not session.renew("guessed", "t2", NOW)
    assert not session.renew("t1", "t2", NOW)


def test_the_token_before_is_taken_again_as_its_answer_may_have_been_lost() -> None:
    session = began()
    session.renew("t1", "t2", NOW)
    assert session.renew("t1", "t3", NOW + GRACE - timedelta(seconds=1))
    assert set(session.current) == {"t2", "t3"}
    assert session.renew("t3", "t4", LATER)
    assert not session.renew("t2", "t5", LATER), "who has the other one is somebody else"


def test_the_token_before_is_not_taken_again_for_long() -> None:
    session = began()
    session.renew("t1", "t2", NOW)
    assert not session.renew("t1", "t3", NOW + GRACE)
    assert not session.renew("t2", "t3", NOW + GRACE)


def test_answers_that_are_lost_again_and_again_cost_no_more_room() -> None:
    session = began()
    session.renew("t1", "t2", NOW)
    for n in range(100):
        assert session.renew("t1", f"again-{n}", NOW)
    assert len(session.current) <= 4
    assert session.renew("again-99", "t3", NOW)


def test_an_ended_or_expired_session_does_not_go_on() -> None:
    ended, expired = began(), began()
    ended.end(NOW)
    ended.end(LATER)
    assert ended.expire_time == NOW
    assert not ended.renew("t1", "t2", NOW)
    assert not expired.renew("t1", "t2", NOW + timedelta(days=30))


def test_a_refresh_token_names_its_session_and_is_kept_as_a_hash() -> None:
    session_id = new_session_id()
    token = new_refresh_token(session_id)
    assert session_in(token) == session_id
    assert len(token.partition(".")[2]) == 43
    assert (len(hash_token(token)), hash_token(token) == hash_token(new_refresh_token(session_id))) == (64, False)


@given(token=st.text(st.characters(codec="utf-8")))
def test_what_is_no_refresh_token_names_no_session_that_could_not_be(token: str) -> None:
    assert (session_in(token) or "x").replace("_", "").replace("-", "").isascii()
    hash_token(token)


# Signing keys

durations = st.builds(timedelta, minutes=st.floats(1, 10_000))


@given(
    period=durations,
    margin=st.floats(0.1, 60),
    lifetimes=st.lists(st.builds(timedelta, minutes=st.floats(0.1, 1_440)), min_size=1, max_size=30),
    pauses=st.lists(durations, min_size=1, max_size=30),
)
def test_nobody_meets_a_token_whose_key_they_do_not_know(
    period: timedelta, margin: float, lifetimes: list[timedelta], pauses: list[timedelta]
) -> None:
    refresh = timedelta(minutes=5)
    schedule = Schedule(period, refresh + timedelta(minutes=margin))
    there: list[SigningKey] = []
    tokens: list[tuple[str, datetime]] = []
    published: list[tuple[datetime, set[str]]] = []
    now = NOW
    for n in range(30):
        # House is kept before or after a token is signed, late or early.
        if n % 2 == 0:
            new = first_or_next(there, schedule, now)
            there += [new] if new else []
            gone = {key.kid for key in retired(there, schedule, now)}
            there = [key for key in there if key.kid not in gone]
            published.append((now, {key.kid for key in there}))
        key = signing_one(there, now)
        lifetime = lifetimes[n % len(lifetimes)]
        key.sign_for(lifetime)
        tokens.append((key.kid, now + lifetime))
        known = [kids for time, kids in published if time >= now - refresh] or [published[-1][1]]
        before = [kids for time, kids in published if time < now - refresh]
        for kids in [*before[-1:], *known]:
            assert {kid for kid, expires in tokens if expires > now} <= kids
        now += pauses[n % len(pauses)]


def test_a_key_is_published_before_it_signs_and_until_its_last_token_has_expired() -> None:
    schedule = Schedule(period=timedelta(days=30), overlap=timedelta(hours=1))
    first = first_or_next([], schedule, NOW)
    assert first is not None
    assert first.sign_from == NOW
    first.sign_for(timedelta(minutes=15))
    begins = NOW + timedelta(days=30)
    assert first_or_next([first], schedule, begins - timedelta(hours=1, seconds=1)) is None
    second = first_or_next([first], schedule, begins - timedelta(hours=1))
    assert second is not None
    assert (second.number, second.sign_from) == (2, begins)
    both = [first, second]
    assert signing_one(both, begins - timedelta(seconds=1)) is first
    assert signing_one(both, begins) is second
    gone_at = begins + timedelta(minutes=15) + timedelta(hours=1)
    assert list(retired(both, schedule, gone_at - timedelta(seconds=1))) == []
    assert list(retired(both, schedule, gone_at)) == [first]
    assert list(retired([second], schedule, gone_at + timedelta(days=300))) == []


def test_a_key_that_is_overdue_goes_on_until_its_successor_is_known() -> None:
    schedule = Schedule(period=timedelta(days=30), overlap=timedelta(hours=1))
    first = SigningKey.generate(number=1, sign_from=NOW, now=NOW)
    woken = NOW + timedelta(days=400)
    second = first_or_next([first], schedule, woken)
    assert second is not None
    assert second.sign_from == woken + timedelta(hours=1)
    assert signing_one([first, second], woken) is first


def test_a_clock_that_was_set_back_leaves_the_first_key() -> None:
    first = SigningKey.generate(number=1, sign_from=NOW, now=NOW)
    assert signing_one([first], NOW - timedelta(days=1)) is first


def test_an_access_token_says_who_calls_and_is_verified_with_the_published_key() -> None:
    key = SigningKey.generate(number=1, sign_from=NOW, now=NOW)
    tokens = AccessTokens(issuer="weft", audience="shop", lifetime=timedelta(minutes=15))
    token, expires = tokens.sign(key, "ann", Role.ADMIN, NOW + timedelta(microseconds=7))
    public = jwt.PyJWK(web_key(key.kid, key.public))
    assert isinstance(public.key, Ed25519PublicKey)
    claims = jwt.decode(
        token, public, algorithms=["EdDSA"], audience="shop", options={"verify_exp": False, "verify_iat": False}
    )
    assert len(claims.pop("jti")) == 36
    assert claims == {
        "iss": "weft",
        "aud": "shop",
        "sub": "ann",
        "role": "admin",
        "iat": int(NOW.timestamp()),
        "exp": int(expires.timestamp()),
    }
    assert expires == NOW + timedelta(minutes=15)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"}


def test_a_published_key_has_no_private_part() -> None:
    key = SigningKey.generate(number=1, sign_from=NOW, now=NOW)
    shown = web_key(key.kid, key.public)
    assert shown.keys() == {"kid", "kty", "crv", "x", "use", "alg"}
    assert (shown["kty"], shown["crv"], shown["use"], shown["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")
    assert web_key(key.kid, key.private)["x"] not in shown.values()


@pytest.mark.parametrize("overlap", [1, 5])
def test_an_overlap_that_services_could_miss_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="WEFT_JWKS_REFRESH"):
        Settings(database_url="sqlite:////tmp/x.db", key_overlap_minutes=overlap)


# Passwords


async def test_a_password_matches_its_hash_alone_however_it_was_typed() -> None:
    passwords = Passwords(at_once=1, waiting=1, hasher=hasher())
    hashed = await passwords.hash("Gr\u00fc\u00dfe aus Bern")
    assert await passwords.matches("Gru\u0308\u00dfe aus Bern", hashed)
    assert not await passwords.matches("Gr\u00fc\u00dfe aus Thun", hashed)
    assert not await passwords.matches("anything", "no hash")
    assert not await passwords.matches("anything", None)
    await passwords.close()


async def test_nobodys_hash_costs_what_somebodys_costs() -> None:
    passwords = Passwords(at_once=1, waiting=1, hasher=hasher(time_cost=2, memory_cost=16))
    mine, nobodys = await passwords.hash("correct horse"), passwords._nobodys
    assert [len(part) for part in mine.split("$")] == [len(part) for part in nobodys.split("$")]
    assert mine.split("$")[:4] == nobodys.split("$")[:4]
    await passwords.close()


async def test_a_hash_with_other_parameters_is_outdated() -> None:
    passwords = Passwords(at_once=1, waiting=1, hasher=hasher())
    assert not passwords.is_outdated(await passwords.hash("correct horse"))
    assert passwords.is_outdated(hasher(time_cost=2).hash("correct horse"))
    await passwords.close()


async def test_no_more_wait_for_a_hash_than_may() -> None:
    passwords = Passwords(at_once=1, waiting=1, hasher=hasher())
    with passwords.place(), passwords.place(), pytest.raises(Exhausted), passwords.place():
        raise AssertionError("there was a third place")
    with passwords.place():
        await asyncio.gather(*(passwords.hash("correct horse") for _ in range(3)))
    await passwords.close()


def test_hashes_are_as_strong_as_the_library_recommends() -> None:
    passwords = Passwords(at_once=1, waiting=1)
    assert passwords._nobodys.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


# The admin's file


def test_the_admin_of_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "admin.json"
    file.write_text(json.dumps({"email": "Admin@Weft.example", "password": "correct horse"}))
    login = read_admin_file(file)
    assert login == ("admin@weft.example", "correct horse")
    assert "horse" not in repr(login)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "must be JSON like"),
        ("[]", "must be JSON like"),
        ('"text"', "must be JSON like"),
        ('{"email": "a@b.example"}', "must be JSON like"),
        ('{"email": "a@b.example", "password": 1234567890}', "must be JSON like"),
        ('{"email": "a@b.example", "password": "horse"}', "password: must be 8 to 128 characters long"),
        ('{"email": "admin", "password": "correct horse"}', "email: is not an email address"),
    ],
)
def test_a_malformed_file_is_named_in_one_line_without_its_password(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "admin.json"
    file.write_text(content)
    with pytest.raises(CannotStart) as error:
        read_admin_file(file)
    assert says in str(error.value)
    assert str(file) in str(error.value)
    assert "horse" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"WEFT_ADMIN_FILE .*admin\.json cannot be read: No such file"):
        read_admin_file(tmp_path / "admin.json")
