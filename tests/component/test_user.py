"""User's accounts over gRPC, on both databases: what they hold, who sees and changes them, and the admins."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.type.postal_address_pb2 import PostalAddress

from commerce.user.v1 import user_service_pb2 as api
from commerce.user.v1.user_events_pb2 import UserRegistered, UserUpdated
from services.user.admin import create_admin
from services.user.settings import Settings
from tests.component.callers import bearer
from tests.component.support import count, reason, refusal, violations
from tests.component.users import BERN, PASSWORD, CheapHasher, Users, role_of, using
from weft import CannotStart
from weft.domain import AlreadyExists, InvalidInput, Refused
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.component.support import NewDatabase, Streams

ADMIN = "admin@weft.example"
WRONG_UPDATES: list[tuple[list[str], dict[str, Any], dict[str, str]]] = [
    (["email"], {"email": "x@example.com"}, {"update_mask": "names 'email'; it may name display_name, address"}),
    (["role"], {"role": api.USER_ROLE_ADMIN}, {"update_mask": "names 'role'; it may name"}),
    (["address.locality"], {"address": BERN}, {"update_mask": "names 'address.locality'; it may name"}),
    (["user_id"], {}, {"update_mask": "names user_id, which never changes"}),
    ([], {"display_name": "x" * 201}, {"user.display_name": "must be at most 200 characters long"}),
    (
        ["address"],
        {"address": PostalAddress(address_lines=["x\0"])},
        {
            "user.address.region_code": "must be a CLDR region code, as in CH",
            "user.address.address_lines[0]": "must not contain the character NUL",
        },
    ),
    ([], {"user_id": "no.dots", "display_name": "x"}, {"user.user_id": "must match [A-Za-z0-9_-]{1,64}"}),
]


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str) -> Settings:
    return Settings(database_url=await new_database_url("user"), nats_url=nats_url)


@pytest_asyncio.fixture
async def users(settings: Settings) -> AsyncIterator[Users]:
    async with using(settings) as users:
        yield users


@pytest.fixture
def admin_file(tmp_path: Path) -> Path:
    file = tmp_path / "admin.json"
    file.write_text(json.dumps({"email": ADMIN, "password": PASSWORD}))
    return file


async def test_a_new_account_is_stored_and_published_without_personal_details(users: Users, streams: Streams) -> None:
    user = await users.register("Ann@Example.com", display_name=" Ann B. ", address=BERN)
    assert (user.email, user.display_name, user.address) == ("ann@example.com", "Ann B.", BERN)
    assert (user.role, user.revision) == (api.USER_ROLE_CUSTOMER, 1)
    assert user.create_time == user.update_time
    assert await users.get(await users.sign_in()) == user
    event = await streams.wait_for(UserRegistered, user.user_id)
    assert event.body == UserRegistered(user_id=user.user_id, address=BERN, revision=1)


async def test_an_account_needs_no_more_than_an_email_and_a_password(users: Users) -> None:
    user = await users.register()
    assert (user.display_name, user.HasField("address")) == ("ann", False)


async def test_every_wrong_field_is_named_and_nothing_is_written(users: Users) -> None:
    wrong = users.register("ann", "short", display_name="nul\0", address=PostalAddress(region_code="CH"))
    assert sorted(violations(await refusal(wrong))) == ["address.address_lines", "display_name", "email", "password"]
    assert (await count(users.service, "users"), await count(users.service, "outbox")) == (0, 0)


async def test_a_taken_email_is_refused_whatever_its_case(users: Users) -> None:
    await users.register()
    error = await refusal(users.register("ANN@example.com", "another password"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    await users.sign_in()


async def test_of_many_that_register_an_email_at_once_one_gets_it(users: Users) -> None:
    wishes = [users.register(display_name=f"Ann {n}") for n in range(8)]
    outcomes = await asyncio.gather(*wishes, return_exceptions=True)
    refused = [one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert refused == [grpc.StatusCode.ALREADY_EXISTS] * 7
    assert (await count(users.service, "users"), await count(users.service, "outbox")) == (1, 1)


@pytest.mark.parametrize("database_server", ["postgres"], indirect=True)
async def test_instances_that_register_an_email_at_once_make_one_account(settings: Settings) -> None:
    other = settings.model_copy(update={"instance": "2"})
    async with using(settings) as one, using(other) as two:
        for n in range(5):
            wishes = [users.register(f"ann{n}@example.com") for users in (one, two) * 2]
            outcomes = await asyncio.gather(*wishes, return_exceptions=True)
            refused = [one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
            assert refused == [grpc.StatusCode.ALREADY_EXISTS] * 3
        assert await count(one.service, "users") == 5


async def test_one_sees_and_changes_oneself(users: Users, streams: Streams) -> None:
    user = await users.register(display_name="Ann")
    session = await users.sign_in()
    changed = await users.update(session, "address", address=BERN, display_name="not named")
    assert (changed.address, changed.display_name, changed.revision) == (BERN, "Ann", 2)
    assert await users.get(session) == changed
    event = await streams.wait_for(UserUpdated, user.user_id)
    assert event.body == UserUpdated(user_id=user.user_id, address=BERN, revision=2)
    assert (await users.update(session, display_name="Ann B.")).display_name == "Ann B."
    gone = await users.update(session, "address", "display_name")
    assert (gone.HasField("address"), gone.display_name, gone.revision) == (False, "ann", 4)


async def test_a_change_with_an_etag_is_made_only_if_it_is_still_the_users(users: Users) -> None:
    user = await users.register()
    session = await users.sign_in()
    changed = await users.update(session, "display_name", "etag", display_name="Ann", etag=user.etag)
    assert (changed.display_name, len({"", user.etag, changed.etag})) == ("Ann", 3)
    await users.change_password(session, PASSWORD, "battery staple")
    session = await users.sign_in(password="battery staple")
    assert (await users.get(session)).etag == changed.etag
    error = await refusal(users.update(session, display_name="Bob", etag=user.etag))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await users.get(session) == changed


async def test_a_change_to_the_same_publishes_nothing(users: Users) -> None:
    user = await users.register(address=BERN)
    session = await users.sign_in()
    assert await users.update(session, display_name="ann", address=BERN) == user
    assert await users.update(session) == user
    assert await count(users.service, "outbox") == 1


async def test_a_wrong_change_is_refused_and_changes_nothing(users: Users) -> None:
    user = await users.register()
    session = await users.sign_in()
    for mask, changes, wrong in WRONG_UPDATES:
        found = violations(await refusal(users.update(session, *mask, **changes)))
        assert found.keys() == wrong.keys(), (mask, changes)
        assert all(found[field].startswith(text) for field, text in wrong.items()), found
    assert await users.get(session) == user


async def test_others_are_not_found_unless_by_an_admin(users: Users) -> None:
    ann, bob = await users.register(), await users.register("bob@example.com")
    session = await users.sign_in("bob@example.com")
    unknown = "01a1f960-65dd-73ce-91dd-48dac249350f"
    for user_id in (ann.user_id, unknown):
        for call in (
            users.get(session, user_id),
            users.update(session, user_id=user_id, display_name="x"),
            users.change_password(session, PASSWORD, "another password", user_id),
        ):
            error = await refusal(call)
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, f"there is no user '{user_id}'")
    await users.promote(bob.user_id)
    session = await users.sign_in("bob@example.com")
    assert await users.get(session, ann.user_id) == ann
    assert (await users.update(session, user_id=ann.user_id, display_name="Ann")).revision == 2
    assert (await refusal(users.get(session, unknown))).code() is grpc.StatusCode.NOT_FOUND
    assert list(violations(await refusal(users.get(session, "no.dots")))) == ["user_id"]


async def test_who_has_no_token_of_users_own_is_nobody(users: Users) -> None:
    user = await users.register()
    request = api.GetUserRequest(user_id=user.user_id)
    for metadata in ((), (("authorization", bearer(user.user_id)),), (("authorization", "Bearer x"),)):
        error = await refusal(users.stub.GetUser(request, metadata=metadata))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_restarted_user_has_what_it_had(settings: Settings) -> None:
    async with using(settings) as users:
        user = await users.register()
        session, kids = await users.sign_in(), await users.kids()
    async with using(settings) as users:
        assert await users.get(session) == user
        assert await users.kids() == kids
        assert (await users.refresh(session.refresh_token)).user_id == user.user_id


async def test_the_admin_of_a_file_is_there_from_the_start(
    settings: Settings, admin_file: Path, streams: Streams
) -> None:
    settings = settings.model_copy(update={"admin_file": admin_file})
    async with using(settings) as users:
        session = await users.sign_in(ADMIN)
        assert role_of(session) == "admin"
        admin = await users.get(session)
        assert (admin.role, admin.revision) == (api.USER_ROLE_ADMIN, 1)
        await streams.wait_for(UserRegistered, admin.user_id)
    async with using(settings) as users:
        assert await users.get(session) == admin
        await users.refresh(session.refresh_token)


async def test_the_files_password_is_the_admins_again_after_a_start(settings: Settings, admin_file: Path) -> None:
    settings = settings.model_copy(update={"admin_file": admin_file})
    async with using(settings) as users:
        session = await users.sign_in(ADMIN)
        await users.change_password(session, PASSWORD, "another password")
    async with using(settings) as users:
        again = await users.sign_in(ADMIN)
        assert (again.user_id, role_of(again)) == (session.user_id, "admin")
        assert (await refusal(users.sign_in(ADMIN, "another password"))).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_customer_whom_the_file_names_becomes_an_admin(
    settings: Settings, admin_file: Path, streams: Streams
) -> None:
    async with using(settings) as users:
        user = await users.register(ADMIN, "another password", address=BERN)
        session = await users.sign_in(ADMIN, "another password")
    async with using(settings.model_copy(update={"admin_file": admin_file})) as users:
        admin = await users.sign_in(ADMIN)
        assert (admin.user_id, role_of(admin)) == (user.user_id, "admin")
        assert (await refusal(users.refresh(session.refresh_token))).code() is grpc.StatusCode.UNAUTHENTICATED
        event = await streams.wait_for(UserUpdated, user.user_id)
        assert event.body == UserUpdated(user_id=user.user_id, address=BERN, revision=2)


@pytest.mark.parametrize("database_server", ["postgres"], indirect=True)
async def test_instances_that_start_at_once_make_one_admin_and_one_key(settings: Settings, admin_file: Path) -> None:
    settings = settings.model_copy(update={"admin_file": admin_file})
    contexts = [using(settings.model_copy(update={"instance": str(n)})) for n in range(3)]
    instances = await asyncio.gather(*(context.__aenter__() for context in contexts))
    try:
        assert await count(instances[0].service, "users") == 1
        assert await count(instances[0].service, "signing_keys") == 1
        for one in instances:
            session = await one.sign_in(ADMIN)
            for other in instances:
                assert (await other.get(session)).email == ADMIN
    finally:
        await asyncio.gather(*(context.__aexit__(None, None, None) for context in contexts))


@pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
async def test_a_wrong_admin_file_ends_the_start(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "admin.json"
    file.write_text('{"email": "admin", "password": "correct horse"}')
    with pytest.raises(CannotStart, match=r"admin\.json: email: is not an email address"):
        async with using(settings.model_copy(update={"admin_file": file})):
            raise AssertionError("it started")


async def test_an_admin_is_made_while_nothing_runs(settings: Settings, streams: Streams) -> None:
    hasher = CheapHasher()
    user_id = await create_admin(settings, "Admin@weft.example", PASSWORD, hasher=hasher)
    with pytest.raises(AlreadyExists):
        await create_admin(settings, ADMIN, PASSWORD, promote=True, hasher=hasher)
    with pytest.raises(InvalidInput, match="password"):
        await create_admin(settings, "bob@example.com", "short", hasher=hasher)
    with pytest.raises(InvalidInput, match="email"):
        await create_admin(settings, "bob", PASSWORD, hasher=hasher)
    async with using(settings) as users:
        session = await users.sign_in(ADMIN)
        assert (session.user_id, role_of(session)) == (user_id, "admin")
        await streams.wait_for(UserRegistered, user_id)


async def test_a_customer_is_made_an_admin_only_on_purpose(settings: Settings) -> None:
    async with using(settings) as users:
        user = await users.register()
    with pytest.raises(Refused, match="promote"):
        await create_admin(settings, user.email, "another password", hasher=CheapHasher())
    assert await create_admin(settings, user.email, "", promote=True, hasher=CheapHasher()) == user.user_id
    async with using(settings) as users:
        assert role_of(await users.sign_in()) == "admin"


async def test_nothing_that_is_secret_is_logged_or_kept_as_it_is(
    settings: Settings, caplog: pytest.LogCaptureFixture, admin_file: Path
) -> None:
    caplog.set_level("DEBUG")
    async with using(settings.model_copy(update={"admin_file": admin_file})) as users:
        await users.register(address=BERN)
        await refusal(users.register())
        session = await users.sign_in()
        await refusal(users.sign_in(password="a wrong guess"))
        again = await users.refresh(session.refresh_token)
        await refusal(users.change_password(again, "a wrong guess", "another password"))
        await users.change_password(again, PASSWORD, "another password")
        await eventually(lambda: everything_out(users), what="the events are out")
        kept = await users.service.reader.run(lambda connection: dump(connection))
    secrets = [PASSWORD, "a wrong guess", "another password", *session_secrets(session), *session_secrets(again)]
    told = caplog.text
    for secret in [*secrets, "ann@example.com", "Bundesplatz"]:
        assert secret not in told, secret
    for secret in secrets:
        assert secret not in kept, secret


def session_secrets(session: api.Session) -> list[str]:
    return [session.access_token, session.refresh_token, session.refresh_token.partition(".")[2]]


async def everything_out(users: Users) -> bool:
    return await count(users.service, "outbox", "published_at IS NULL") == 0


def dump(connection: Any) -> str:
    """Return every row of every table that user has."""
    tables = ("users", "sessions", "sign_in_attempts", "signing_keys", "outbox", "intents")
    return "\n".join(str(row) for table in tables for row in connection.exec_driver_sql(f"SELECT * FROM {table}"))
