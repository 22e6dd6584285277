"""Where an order goes that does not say: what user says; while it does not answer, what order remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commerce.user.v1.user_service_pb2 import GetUserRequest
from services.order import queries
from services.order.upstream import Upstream
from weft.domain import InvalidInput, Unavailable, Violation

if TYPE_CHECKING:
    from google.type.postal_address_pb2 import PostalAddress

    from commerce.user.v1.user_service_pb2_grpc import UserServiceAsyncStub
    from weft import Reader


class AddressBook:
    """The users' own addresses, from the service that owns them or from order's copies."""

    def __init__(self, users: UserServiceAsyncStub, reader: Reader) -> None:
        self._users = users
        self._reader = reader
        self._upstream = Upstream("user")

    async def find(self, user_id: str) -> PostalAddress:
        """Return the address of a user.

        Raises `InvalidInput`, which names `ship_to`, if there is none, and `Unavailable` if it is not known.
        """
        answer = await self._upstream.ask(self._users.GetUser, GetUserRequest(user_id=user_id))
        if answer is None:
            address = await self._remember(user_id)
        else:
            address = answer.user.address if answer.user.HasField("address") else None
        if address is None:
            raise InvalidInput(Violation("ship_to", "is required, as you have set no address of your own"))
        return address

    async def _remember(self, user_id: str) -> PostalAddress | None:
        user = await self._reader.look_up(queries.remembered_user, user_id)
        if user is None:
            raise Unavailable("your address cannot be learned now: send ship_to, or try again")
        return user.address
