"""User running, and what the tests of user ask it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jwt
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.postal_address_pb2 import PostalAddress

from commerce.user.v1 import user_service_pb2 as api
from commerce.user.v1.user_service_pb2_grpc import UserServiceStub
from services.user import store
from services.user.service import build
from tests.component.support import calling, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from commerce.user.v1.user_service_pb2_grpc import UserServiceAsyncStub
    from services.user.settings import Settings
    from weft import Clock, Service, UnitOfWork

PASSWORD = "correct horse"
BERN = PostalAddress(region_code="CH", address_lines=["Bundesplatz 3", "3005 Bern"])


class CheapHasher(PasswordHasher):
    """Hashes for next to nothing, and counts how many passwords it compared."""

    def __init__(self, time_cost: int = CHEAPEST.time_cost) -> None:
        super().__init__(time_cost, CHEAPEST.memory_cost, CHEAPEST.parallelism)
        self.compared = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.compared += 1
        return super().verify(hash, password)


@dataclass(frozen=True, slots=True)
class Users:
    """User running, and a client of it that has no token of its own."""

    service: Service
    stub: UserServiceAsyncStub
    hasher: CheapHasher

    async def register(self, email: str = "ann@example.com", password: str = PASSWORD, **fields: Any) -> api.User:
        request = api.RegisterUserRequest(email=email, password=password, **fields)
        return (await self.stub.RegisterUser(request)).user

    async def sign_in(self, email: str = "ann@example.com", password: str = PASSWORD) -> api.Session:
        return (await self.stub.SignIn(api.SignInRequest(email=email, password=password))).session

    async def refresh(self, token: str) -> api.Session:
        return (await self.stub.RefreshSession(api.RefreshSessionRequest(refresh_token=token))).session

    async def sign_out(self, token: str) -> None:
        await self.stub.SignOut(api.SignOutRequest(refresh_token=token))

    async def get(self, session: api.Session, user_id: str = "") -> api.User:
        request = api.GetUserRequest(user_id=user_id or session.user_id)
        return (await self.stub.GetUser(request, metadata=signed(session))).user

    async def update(self, session: api.Session, *mask: str, user_id: str = "", **changes: Any) -> api.User:
        user = api.User(user_id=user_id or session.user_id, **changes)
        request = api.UpdateUserRequest(user=user, update_mask=FieldMask(paths=mask))
        return (await self.stub.UpdateUser(request, metadata=signed(session))).user

    async def change_password(self, session: api.Session, current: str, new: str, user_id: str = "") -> None:
        request = api.ChangePasswordRequest(
            user_id=user_id or session.user_id, current_password=current, new_password=new
        )
        await self.stub.ChangePassword(request, metadata=signed(session))

    async def kids(self) -> list[str]:
        """Return the ids of the published keys."""
        return [key.kid for key in (await self.stub.GetSigningKeys(api.GetSigningKeysRequest())).keys]

    async def promote(self, user_id: str) -> None:
        """Make somebody an admin, as nothing but user's own database can."""

        def command(work: UnitOfWork) -> None:
            user = work.get(store.users, user_id)
            assert user is not None
            user.promote(work.now)

        await self.service.writer.run(command)


@asynccontextmanager
async def using(
    settings: Settings, clock: Clock | None = None, hasher: CheapHasher | None = None
) -> AsyncIterator[Users]:
    """Run user for a while; again on the same settings it is a restarted one."""
    hasher = hasher or CheapHasher()
    async with running(build(settings, clock, hasher)) as service, calling(service, "") as channel:
        yield Users(service, UserServiceStub(channel), hasher)


def signed(session: api.Session) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call that the owner of a session makes."""
    return (("authorization", f"Bearer {session.access_token}"),)


def kid_of(session: api.Session) -> str:
    """Return the id of the key that signed a session's access token."""
    return str(jwt.get_unverified_header(session.access_token)["kid"])


def role_of(session: api.Session) -> str:
    """Return the role that a session's access token states."""
    return str(jwt.decode(session.access_token, options={"verify_signature": False})["role"])
