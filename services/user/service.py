"""How user is put together."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from commerce.user.v1.user_service_pb2_grpc import add_UserServiceServicer_to_server
from services.user import housekeeping, queries
from services.user.admin import MIGRATIONS, ensure_admin, read_admin_file
from services.user.credentials import Credentials
from services.user.grpc_api import UserApi
from services.user.passwords import Passwords
from services.user.tokens import AccessTokens
from weft import Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from argon2 import PasswordHasher

    from services.user.settings import Settings
    from weft import Clock

JWKS_PATH = "/.well-known/jwks.json"
"""Where the operations port shows the public keys."""


def build(settings: Settings, clock: Clock | None = None, hasher: PasswordHasher | None = None) -> Service:
    """Return user, ready to start. Without `hasher` passwords are hashed as argon2-cffi recommends."""
    service = Service("user", "commerce.user", settings, migrations=MIGRATIONS, clock=clock)
    passwords = Passwords(
        at_once=settings.password_hashes_at_once, waiting=settings.password_hashes_waiting, hasher=hasher
    )
    service.closes(passwords.close)
    credentials = Credentials(
        service.writer,
        passwords,
        session_lifetime=settings.session_lifetime,
        token_lifetime=settings.token_lifetime,
    )
    tokens = AccessTokens(
        issuer=settings.token_issuer, audience=settings.token_audience, lifetime=settings.token_lifetime
    )
    service.serves(
        add_UserServiceServicer_to_server,
        UserApi(service.writer, service.reader, passwords, credentials, tokens),
        "commerce.user.v1.UserService",
    )

    async def show_keys() -> tuple[str, bytes]:
        return "application/json", orjson.dumps(await _key_set(service))

    async def prepare() -> None:
        await service.writer.run(housekeeping.keep_house, settings.key_schedule)
        if settings.admin_file is not None:
            login = read_admin_file(settings.admin_file)
            await ensure_admin(login, service.writer, service.reader, passwords)

    service.trusts(partial(_key_set, service))
    service.shows(JWKS_PATH, show_keys)
    service.before_serving(prepare)
    service.acts_on(housekeeping.timer(settings.key_schedule))
    return service


def keys_of(user: Service) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return what another service of the same process fetches user's public keys with, once user has begun."""

    async def fetch() -> dict[str, Any]:
        while not user.ops_port:  # noqa: ASYNC110 - a matter of milliseconds, once
            await asyncio.sleep(0.02)
        return await _key_set(user)

    return fetch


async def _key_set(service: Service) -> dict[str, Any]:
    return {"keys": await service.reader.run(queries.published_keys)}
