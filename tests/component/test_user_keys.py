"""User's signing keys: where they are published, who shares them, and how one follows another without a gap."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
import orjson
import pytest_asyncio

from commerce.user.v1 import user_service_pb2 as api
from services.user.housekeeping import keep_house
from services.user.service import JWKS_PATH, build, keys_of
from services.user.settings import Settings
from tests.component.support import refusal, running
from tests.component.users import CheapHasher, Users, kid_of, using
from weft.clock import ManualClock
from weft.testing import eventually
from weft.tokens import SigningKeys, Verifier, fetch_from

if TYPE_CHECKING:
    from tests.component.support import NewDatabase

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
REFRESH = 5 * MINUTE


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str) -> Settings:
    return Settings(database_url=await new_database_url("user"), nats_url=nats_url)


async def page(users: Users) -> dict[str, Any]:
    """Return the page that other services fetch, as they do."""
    url = f"http://127.0.0.1:{users.service.ops_port}{JWKS_PATH}"
    return dict(await fetch_from(url)())


async def test_keys_are_published_as_a_page_and_over_grpc_without_their_private_part(settings: Settings) -> None:
    async with using(settings) as users:
        shown = await page(users)
        answer = await users.stub.GetSigningKeys(api.GetSigningKeysRequest())
        assert shown == {
            "keys": [{field.name: value for field, value in key.ListFields()} for key in answer.keys],
        }
        (key,) = shown["keys"]
        assert key.keys() == {"kid", "kty", "crv", "x", "use", "alg"}
        private = await users.service.reader.run(
            lambda connection: connection.exec_driver_sql("SELECT private_key FROM signing_keys").scalar_one()
        )
        assert bytes(private) not in orjson.dumps(shown)


async def test_who_knows_the_page_can_verify_every_token(settings: Settings) -> None:
    async with using(settings) as users:
        await users.register()
        session = await users.sign_in()
        url = f"http://127.0.0.1:{users.service.ops_port}{JWKS_PATH}"
        keys = SigningKeys(fetch_from(url), refresh=300)
        fetching = asyncio.create_task(keys.run())
        caller = await Verifier(keys, issuer="weft", audience="weft").verify(f"Bearer {session.access_token}")
        fetching.cancel()
        assert (caller.subject, caller.role) == (session.user_id, "customer")


async def test_tokens_bear_the_issuer_and_the_audience_of_the_settings(settings: Settings) -> None:
    async with using(settings.model_copy(update={"token_issuer": "shop", "token_audience": "till"})) as users:
        await users.register()
        session = await users.sign_in()
        claims = jwt.decode(session.access_token, options={"verify_signature": False})
        assert (claims["iss"], claims["aud"]) == ("shop", "till")
        assert (await users.get(session)).user_id == session.user_id
    async with using(settings) as users:
        assert (await refusal(users.get(session))).details().startswith("the token is not valid here")  # type: ignore[union-attr]


async def test_a_service_of_the_same_process_has_the_keys_once_user_has_begun(settings: Settings) -> None:
    service = build(settings, hasher=CheapHasher())
    early = asyncio.ensure_future(keys_of(service)())
    async with running(service):
        assert len((await early)["keys"]) == 1


async def test_keys_follow_one_another_without_a_gap(settings: Settings) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    settings = settings.model_copy(update={"signing_key_days": 2, "token_minutes": 600})
    watch = _Watch(clock, settings)
    for _ in range(2):  # the second one is a restarted one
        async with using(settings, clock) as users:
            if not watch.published:
                await users.register()
            for _ in range(24):
                await watch.look(users)
                clock.advance(watch.pause())
        clock.advance(DAY)
    assert len(watch.signed_by) >= 4, "keys were changed several times"
    assert max(watch.published) <= 3
    assert watch.published[-1] < len(watch.signed_by), "old keys are gone"


async def test_a_key_that_is_due_is_published_by_itself_and_signs_later(settings: Settings) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with using(settings, clock) as users:
        await users.register()
        first = kid_of(await users.sign_in())
        clock.advance(30 * DAY - HOUR)

        async def published() -> bool:
            return len(await users.kids()) == 2

        await eventually(published, what="the next key is published")
        assert kid_of(await users.sign_in()) == first
        clock.advance(HOUR)
        assert kid_of(await users.sign_in()) != first


class _Watch:
    """Signs in again and again, and knows what a verifier knows who fetched the keys 5 minutes ago."""

    def __init__(self, clock: ManualClock, settings: Settings) -> None:
        self._clock = clock
        self._schedule = settings.key_schedule
        self._seen: list[tuple[datetime, set[str]]] = []
        self._tokens: list[tuple[str, datetime]] = []
        self._steps = 0
        self.signed_by: set[str] = set()
        self.published: list[int] = []

    def pause(self) -> timedelta:
        """Return how long to wait for the next look: hours, and now and then a moment."""
        self._steps += 1
        return (11 * HOUR, 4 * MINUTE, 7 * HOUR, 55 * MINUTE)[self._steps % 4]

    async def look(self, users: Users) -> None:
        session = await users.sign_in()
        now = self._clock.now()
        self._tokens.append((kid_of(session), session.expire_time.ToDatetime(UTC)))
        self.signed_by.add(kid_of(session))
        valid = {kid for kid, expires in self._tokens if expires > now}
        recent = [kids for time, kids in self._seen if time >= now - REFRESH]
        for kids in [*recent, set(await users.kids())]:
            assert valid <= kids
        await users.service.writer.run(keep_house, self._schedule)
        kids = set(await users.kids())
        assert valid <= kids
        self._seen.append((now, kids))
        self.published.append(len(kids))
