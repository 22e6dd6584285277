"""User's gRPC service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from commerce.user.v1 import user_service_pb2 as api
from commerce.user.v1.user_service_pb2_grpc import UserServiceServicer
from services.user import commands, queries
from services.user.domain import check_registration, password_violations
from weft import identity, timestamp
from weft.domain import AlreadyExists, InvalidInput, NotFound, Unauthenticated, Violation, check_id, id_violations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grpc.aio import ServicerContext

    from services.user.commands import Begun
    from services.user.credentials import Credentials
    from services.user.domain import User
    from services.user.passwords import Passwords
    from services.user.tokens import AccessTokens
    from weft import Reader, Writer

_CHANGEABLE = ("display_name", "address")
_CONDITION = "etag"
"""Which a mask made of all that a client sent names too; it changes nothing."""


class UserApi(UserServiceServicer):
    """`commerce.user.v1.UserService`."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        passwords: Passwords,
        credentials: Credentials,
        tokens: AccessTokens,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._passwords = passwords
        self._credentials = credentials
        self._tokens = tokens

    async def RegisterUser(
        self,
        request: api.RegisterUserRequest,
        context: ServicerContext[api.RegisterUserRequest, api.RegisterUserResponse],
    ) -> api.RegisterUserResponse:
        address = request.address if request.HasField("address") else None
        email = check_registration(
            email=request.email, password=request.password, display_name=request.display_name, address=address
        )
        # Before the costly hash; the command asks again.
        if await self._reader.run(queries.find_account, email=email) is not None:
            raise AlreadyExists("user", email)
        with self._passwords.place():
            password_hash = await self._passwords.hash(request.password)
        user = await self._writer.run(
            commands.register_user,
            email=email,
            password_hash=password_hash,
            display_name=request.display_name,
            address=address,
        )
        return api.RegisterUserResponse(user=_message(user))

    async def GetUser(
        self,
        request: api.GetUserRequest,
        context: ServicerContext[api.GetUserRequest, api.GetUserResponse],
    ) -> api.GetUserResponse:
        user = await self._reader.look_up(queries.get_user, request.user_id, identity.caller())
        return api.GetUserResponse(user=_message(user))

    async def UpdateUser(
        self,
        request: api.UpdateUserRequest,
        context: ServicerContext[api.UpdateUserRequest, api.UpdateUserResponse],
    ) -> api.UpdateUserResponse:
        asked, changes = request.user, _changes(request)
        user = await self._writer.run(commands.update_user, asked.user_id, identity.caller(), changes, asked.etag)
        return api.UpdateUserResponse(user=_message(user))

    async def ChangePassword(
        self,
        request: api.ChangePasswordRequest,
        context: ServicerContext[api.ChangePasswordRequest, api.ChangePasswordResponse],
    ) -> api.ChangePasswordResponse:
        user_id = check_id("user_id", request.user_id)
        if user_id != identity.caller().subject:
            raise NotFound("user", user_id)
        if wrong := [*password_violations("new_password", request.new_password)]:
            raise InvalidInput(*wrong)
        await self._credentials.change_password(user_id, request.current_password, request.new_password)
        return api.ChangePasswordResponse()

    async def SignIn(
        self,
        request: api.SignInRequest,
        context: ServicerContext[api.SignInRequest, api.SignInResponse],
    ) -> api.SignInResponse:
        begun = await self._credentials.sign_in(request.email, request.password)
        return api.SignInResponse(session=self._session(begun))

    async def RefreshSession(
        self,
        request: api.RefreshSessionRequest,
        context: ServicerContext[api.RefreshSessionRequest, api.RefreshSessionResponse],
    ) -> api.RefreshSessionResponse:
        begun = await self._writer.run(commands.renew_session, request.refresh_token, self._tokens.lifetime)
        if begun is None:
            raise Unauthenticated("SESSION_ENDED", "the session has ended: sign in again")
        return api.RefreshSessionResponse(session=self._session(begun))

    async def SignOut(
        self,
        request: api.SignOutRequest,
        context: ServicerContext[api.SignOutRequest, api.SignOutResponse],
    ) -> api.SignOutResponse:
        await self._writer.run(commands.end_session, request.refresh_token)
        return api.SignOutResponse()

    async def GetSigningKeys(
        self,
        request: api.GetSigningKeysRequest,
        context: ServicerContext[api.GetSigningKeysRequest, api.GetSigningKeysResponse],
    ) -> api.GetSigningKeysResponse:
        keys = await self._reader.run(queries.published_keys)
        return api.GetSigningKeysResponse(keys=[api.SigningKey(**key) for key in keys])

    def _session(self, begun: Begun) -> api.Session:
        access_token, expires = self._tokens.sign(begun.key, begun.user_id, begun.role, begun.time)
        return api.Session(
            access_token=access_token,
            expire_time=timestamp(expires),
            refresh_token=begun.refresh_token,
            refresh_expire_time=timestamp(begun.refresh_expire_time),
            user_id=begun.user_id,
        )


def _changes(request: api.UpdateUserRequest) -> dict[str, Any]:
    """Return the new values that the request has, by field; an address that it takes away is None.

    Raises `InvalidInput`.
    """
    user = request.user
    wrong = id_violations("user.user_id", user.user_id)
    wrong += _mask_violations(request)
    if wrong:
        raise InvalidInput(*wrong)
    named = request.update_mask.paths or [field.name for field, _ in user.ListFields()]
    changes: dict[str, Any] = {name: getattr(user, name) for name in named if name in _CHANGEABLE}
    if "address" in changes and not user.HasField("address"):
        changes["address"] = None
    return changes


def _mask_violations(request: api.UpdateUserRequest) -> Iterator[Violation]:
    for path in request.update_mask.paths:
        if path == "user_id":
            yield Violation("update_mask", "names user_id, which never changes")
        elif path not in (*_CHANGEABLE, _CONDITION):
            yield Violation("update_mask", f"names {path!r}; it may name {', '.join(_CHANGEABLE)}")


def _message(user: User) -> api.User:
    return api.User(
        user_id=user.user_id,
        email=user.email,
        display_name=user.display_name,
        address=user.address,
        role=api.UserRole.Value(f"USER_ROLE_{user.role.name}"),
        revision=user.revision,
        create_time=timestamp(user.create_time),
        update_time=timestamp(user.update_time),
        etag=user.etag,
    )
