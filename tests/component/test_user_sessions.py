"""Signing in to user, and what follows: sessions, guesses that are counted, passwords that change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from commerce.user.v1 import user_service_pb2 as api
from services.user.housekeeping import KEPT
from services.user.settings import Settings
from tests.component.support import count, reason, refusal, violations
from tests.component.users import PASSWORD, CheapHasher, Users, role_of, using
from weft.clock import ManualClock
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping

    from tests.component.support import NewDatabase

ANN = "ann@example.com"
NOBODY = "nobody@example.com"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still, now: tokens are verified by the real one."""
    return ManualClock(datetime.now(UTC))


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str) -> Settings:
    return Settings(database_url=await new_database_url("user"), nats_url=nats_url)


@pytest_asyncio.fixture
async def users(settings: Settings, clock: ManualClock) -> AsyncIterator[Users]:
    """User, running, with Ann's account."""
    async with using(settings, clock) as users:
        await users.register(ANN)
        yield users


def bytes_of(error: grpc.aio.AioRpcError) -> tuple[object, ...]:
    """Return everything that a caller sees of an error."""
    return error.code(), error.details(), tuple(error.initial_metadata()), tuple(error.trailing_metadata())


def wait_of(error: grpc.aio.AioRpcError) -> float:
    """Return after how many seconds a refused caller may try again."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
    metadata: Mapping[str, bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    status = Status.FromString(metadata["grpc-status-details-bin"])
    info = RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.retry_delay.ToTimedelta().total_seconds()


async def guess(users: Users, email: str = ANN, times: int = 1) -> grpc.aio.AioRpcError:
    """Sign in with a wrong password, several times; return the last refusal."""
    for _ in range(times):
        error = await refusal(users.sign_in(email, "a wrong guess"))
    return error


async def ended(call: Awaitable[object]) -> bool:
    error = await refusal(call)
    return (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")


async def test_a_session_says_when_its_tokens_expire(users: Users, clock: ManualClock) -> None:
    session = await users.sign_in("Ann@Example.com")
    now = clock.now()
    assert session.expire_time.ToDatetime(UTC) == (now + 15 * MINUTE).replace(microsecond=0)
    assert session.refresh_expire_time.ToDatetime(UTC) == now + timedelta(days=30)
    assert (await users.get(session)).user_id == session.user_id
    assert role_of(session) == "customer"


async def test_a_wrong_password_and_an_unknown_email_are_answered_alike_after_the_same_work(users: Users) -> None:
    compared = [users.hasher.compared]
    answers = []
    for email in (ANN, NOBODY, "no email at all"):
        answers.append(bytes_of(await guess(users, email)))
        compared.append(users.hasher.compared)
    assert len(set(answers)) == 1
    assert answers[0][:2] == (grpc.StatusCode.UNAUTHENTICATED, "the email or the password is wrong")
    assert [later - one for one, later in pairwise(compared)] == [1, 1, 1]
    assert await count(users.service, "sign_in_attempts", "failures = 1") == 3


async def test_what_cannot_be_an_email_or_a_password_is_named(users: Users) -> None:
    assert sorted(violations(await refusal(users.sign_in("", "")))) == ["email", "password"]
    assert sorted(violations(await refusal(users.sign_in("x" * 255, "x" * 129)))) == ["email", "password"]
    assert await count(users.service, "sign_in_attempts") == 0


async def test_five_failures_lock_an_email_even_for_the_right_password(users: Users, clock: ManualClock) -> None:
    await guess(users, times=5)
    compared = users.hasher.compared
    error = await refusal(users.sign_in())
    assert wait_of(error) == 60.0
    assert users.hasher.compared == compared, "a locked email's password is not looked at"
    clock.advance(MINUTE)
    assert (await users.sign_in()).user_id
    await guess(users, times=4)
    assert (await users.sign_in()).user_id, "a success forgets the failures before it"


async def test_the_lock_doubles_and_an_unknown_email_is_locked_alike(users: Users, clock: ManualClock) -> None:
    for email in (ANN, NOBODY):
        await guess(users, email, times=5)
    for seconds in (60.0, 120.0, 240.0, 480.0, 900.0, 900.0):
        known, unknown = await guess(users, ANN), await guess(users, NOBODY)
        assert (wait_of(known), bytes_of(known)) == (seconds, bytes_of(unknown))
        clock.advance(timedelta(seconds=seconds))
        for email in (ANN, NOBODY):
            assert (await guess(users, email)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_guesses_at_the_same_time_all_count(users: Users) -> None:
    guesses = [refusal(users.sign_in(ANN.upper() if n % 2 else ANN, f"guess number {n}")) for n in range(20)]
    codes = [error.code() for error in await asyncio.gather(*guesses)]
    assert codes.count(grpc.StatusCode.UNAUTHENTICATED) == 5
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 15
    assert users.hasher.compared == 5


async def test_a_guess_that_nobody_waits_for_counts_too(users: Users) -> None:
    for n in range(5):
        call = users.stub.SignIn(api.SignInRequest(email=ANN, password=f"guess number {n}"))
        await eventually(partial(count, users.service, "sign_in_attempts", f"failures = {n + 1}"))
        call.cancel()
    assert wait_of(await refusal(users.sign_in())) == 60.0


@pytest.mark.parametrize("database_server", ["postgres"], indirect=True)
async def test_guesses_at_two_instances_count_together(settings: Settings) -> None:
    other = settings.model_copy(update={"instance": "2"})
    async with using(settings) as one, using(other) as two:
        await one.register(ANN)
        guesses = [refusal(users.sign_in(ANN, "a wrong guess")) for users in (one, two) * 8]
        codes = [error.code() for error in await asyncio.gather(*guesses)]
        assert codes.count(grpc.StatusCode.UNAUTHENTICATED) <= 5
        assert one.hasher.compared + two.hasher.compared <= 5
        session = await one.sign_in(await registered(one))
        assert (await two.refresh(session.refresh_token)).user_id == session.user_id


async def registered(users: Users) -> str:
    return (await users.register("bob@example.com")).email


async def test_callers_that_would_wait_too_long_for_a_hash_are_sent_away(settings: Settings) -> None:
    tight = settings.model_copy(update={"password_hashes_at_once": 1, "password_hashes_waiting": 1})
    async with using(tight) as users:
        calls = [refusal(users.sign_in(f"nobody-{n}@example.com")) for n in range(20)]
        codes = [error.code() for error in await asyncio.gather(*calls)]
        assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await count(users.service, "sign_in_attempts") == codes.count(grpc.StatusCode.UNAUTHENTICATED)


async def test_a_session_goes_on_with_new_tokens_and_the_role_of_the_moment(users: Users, clock: ManualClock) -> None:
    first = await users.sign_in()
    await users.promote(first.user_id)
    clock.advance(10 * MINUTE)
    second = await users.refresh(first.refresh_token)
    assert second.refresh_token != first.refresh_token
    assert second.refresh_expire_time == first.refresh_expire_time
    assert second.expire_time.ToDatetime(UTC) == (clock.now() + 15 * MINUTE).replace(microsecond=0)
    assert (role_of(first), role_of(second)) == ("customer", "admin")


async def test_a_refresh_token_that_is_used_again_ends_the_session(users: Users, clock: ManualClock) -> None:
    other = await users.sign_in()
    first = await users.sign_in()
    second = await users.refresh(first.refresh_token)
    clock.advance(timedelta(seconds=30))
    assert await ended(users.refresh(first.refresh_token))
    assert await ended(users.refresh(second.refresh_token)), "whoever has the newer token may be the thief"
    await users.refresh(other.refresh_token)


async def test_a_lost_answer_can_be_asked_for_again(users: Users, clock: ManualClock) -> None:
    first = await users.sign_in()
    await users.refresh(first.refresh_token)
    clock.advance(timedelta(seconds=29))
    again = await users.refresh(first.refresh_token)
    clock.advance(MINUTE)
    await users.refresh(again.refresh_token)


async def test_a_token_that_is_shown_many_times_at_once_has_one_line_of_successors(users: Users) -> None:
    first = await users.sign_in()
    following = await asyncio.gather(*(users.refresh(first.refresh_token) for _ in range(4)))
    assert len({one.refresh_token for one in following}) == 4
    await users.refresh(following[-1].refresh_token)
    assert await ended(users.refresh(following[0].refresh_token))


async def test_an_expired_session_does_not_go_on(users: Users, clock: ManualClock) -> None:
    session = await users.sign_in()
    clock.advance(timedelta(days=30))
    assert await ended(users.refresh(session.refresh_token))


async def test_signing_out_ends_the_session_however_often(users: Users) -> None:
    session = await users.sign_in()
    for token in (session.refresh_token, session.refresh_token, "", "x.y", "nul\0.x", "no-such-session.x"):
        await users.sign_out(token)
    for token in (session.refresh_token, "", "x.y", "nul\0.x"):
        assert await ended(users.refresh(token))


async def test_a_new_password_ends_every_session_and_the_old_one_is_of_no_more_use(users: Users) -> None:
    sessions = [await users.sign_in() for _ in range(2)]
    await users.change_password(sessions[0], PASSWORD, "another password")
    for session in sessions:
        assert await ended(users.refresh(session.refresh_token))
    assert (await refusal(users.sign_in())).code() is grpc.StatusCode.UNAUTHENTICATED
    again = await users.sign_in(password="another password")
    await users.refresh(again.refresh_token)
    assert (await users.get(again)).revision == 1


async def test_a_new_password_must_be_one_and_the_current_one_right(users: Users, clock: ManualClock) -> None:
    session = await users.sign_in()
    assert list(violations(await refusal(users.change_password(session, PASSWORD, "short")))) == ["new_password"]
    wrong = users.change_password(session, "", "another password")
    assert list(violations(await refusal(wrong))) == ["current_password"]
    for _ in range(5):
        error = await refusal(users.change_password(session, "a wrong guess", "another password"))
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "WRONG_CREDENTIALS")
    assert wait_of(await refusal(users.change_password(session, PASSWORD, "another password"))) == 60.0
    assert wait_of(await refusal(users.sign_in())) == 60.0, "both count together"
    clock.advance(MINUTE)
    await users.change_password(session, PASSWORD, "another password")


async def test_a_hash_with_old_parameters_is_made_anew_at_the_next_sign_in(settings: Settings) -> None:
    async with using(settings) as users:
        await users.register(ANN)
        session = await users.sign_in()
    async with using(settings, hasher=CheapHasher(time_cost=2)) as users:
        old = "password_hash LIKE '%t=1,%'"
        assert await count(users.service, "users", old) == 1
        await asyncio.gather(*(users.sign_in() for _ in range(3)))
        assert await count(users.service, "users", old) == 0
        await users.sign_in()
        await users.refresh(session.refresh_token)


async def test_what_is_past_is_cleaned_away(users: Users, clock: ManualClock) -> None:
    await guess(users, NOBODY)
    kept, expiring = await users.sign_in(), await users.sign_in()
    await users.sign_out(expiring.refresh_token)

    async def cleaned() -> bool:
        clock.advance(10 * MINUTE)
        return await count(users.service, "sessions") == 1

    await eventually(cleaned, what="the ended session is gone")
    await users.refresh(kept.refresh_token)
    clock.advance(KEPT)

    async def forgotten() -> bool:
        clock.advance(10 * MINUTE)
        return await count(users.service, "sign_in_attempts") == 0

    await eventually(forgotten, what="the attempts are forgotten")
    await users.refresh((await users.sign_in()).refresh_token)


async def test_an_email_that_no_database_takes_is_refused_by_name(users: Users) -> None:
    assert list(violations(await refusal(users.sign_in("a\0b@example.com")))) == ["email"]
