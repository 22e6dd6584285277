"""Finds the gateway of a system, and reaches it as somebody."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING

from cli.data import DEFAULT_DATA, DataDirectory
from cli.errors import CallFailed, Problem
from cli.rest import Rest, normalise
from cli.tokens import Nobody, choose_account, claims_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from cli.events import Event
    from cli.rest import Answer
    from cli.tokens import Account

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """Which system a command is about, and whether a program reads what it prints."""

    data: Path
    gateway: str | None = None
    json: bool = False

    def find(self) -> Place:
        """Return where its gateway is. Raises `Problem` if no system runs in `data` and no address is given."""
        if self.gateway:
            return Place(normalise(self.gateway))
        directory = DataDirectory.at(self.data)
        run = directory.read_run()
        if run is None or directory.holder() is None:
            option = "" if self.data == DEFAULT_DATA else f" --data {self.data}"
            raise Problem(f"nothing runs in {directory.path}; start it with `weft up{option}`, or name a --gateway.")
        if not run.get("gateway"):
            raise Problem(f"{directory.run_file} names no gateway; start the system again.")
        return Place(normalise(run["gateway"]), directory)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway is."""

    url: str
    data: DataDirectory | None = None
    """The folder of its system, if that is how it was found."""


class Gateway:
    """A system's gateway as `account` sees it. Every request raises what `Rest.send` raises."""

    def __init__(self, rest: Rest, account: Account) -> None:
        self.url = rest.url
        self.account = account
        self._rest = rest

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, patience: float | None = None) -> Answer:
        """Return what is at `path`; the system may take `patience` seconds."""
        return await self._send("GET", path, query=query, patience=patience)

    async def post(
        self, path: str, body: Answer | None = None, *, patience: float | None = None, key: str = ""
    ) -> Answer:
        """Have something done; the system may take `patience` seconds. A `key` (see `Rest.send`) has it done once."""
        return await self._send("POST", path, body=body or {}, patience=patience, key=key)

    async def patch(self, path: str, body: Answer, fields: list[str]) -> Answer:
        """Change `fields` (JSON names) of what is at `path` to their values in `body`."""
        return await self._send("PATCH", path, body=body, query={"updateMask": ",".join(fields)})

    async def list(
        self, path: str, what: str, query: Mapping[str, str], limit: int, *, patience: float | None = None
    ) -> Answer:
        """Return up to `limit` entries of the list `what` at `path`, from as many pages as that takes."""
        answer: Answer = {what: []}
        while (left := limit - len(answer[what])) > 0:
            page = {"pageSize": str(min(left, _PAGE)), "pageToken": answer.get("nextPageToken", "")}
            page = {name: value for name, value in page.items() if value}
            found = await self.get(path, {**query, **page}, patience=patience)
            answer = {**found, what: answer[what] + found.get(what, [])}
            if not answer.get("nextPageToken"):
                break
        return answer

    async def events(self, path: str, last_id: str = "") -> AsyncGenerator[Event, None]:
        """Yield the events of a stream after the one with `last_id`; raises what `Rest.events` raises."""
        token = await self.account.token(self._rest)
        for again in (True, False):
            try:
                async with aclosing(self._rest.events(path, token=token, last_id=last_id)) as found:
                    async for event in found:
                        yield event
                return
            except CallFailed as failed:
                if failed.code != "UNAUTHENTICATED" or not again:
                    raise
            token = await self.account.renew(self._rest, token)

    async def token(self) -> str:
        """Return the access token that the next request would carry."""
        return await self.account.token(self._rest)

    async def user_id(self) -> str:
        """Return the caller's user id, as their token states it."""
        return str(claims_of(await self.token())["sub"])

    async def is_admin(self) -> bool:
        """Tell whether the caller is an admin, as their token states it."""
        return claims_of(await self.token()).get("role") == "admin"

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Answer | None = None,
        patience: float | None = None,
        key: str = "",
    ) -> Answer:
        token = await self.account.token(self._rest)
        send = partial(self._rest.send, method, path, query=query, body=body, patience=patience, key=key)
        try:
            return await send(token=token)
        except CallFailed as failed:
            if failed.code == "PERMISSION_DENIED":
                raise failed.with_advice(f"{self.account.who} asked; `weft login EMAIL` signs in as another") from None
            if failed.code != "UNAUTHENTICATED":
                raise
        token = await self.account.renew(self._rest, token)
        return await send(token=token)


@asynccontextmanager
async def reach(target: Target, *, public: bool = False) -> AsyncIterator[Gateway]:
    """Yield the gateway of a system, as whoever is signed in, or as nobody for what is `public`.

    Raises `Problem` if the system is not to be found, or nobody is signed in.
    """
    place = target.find()
    async with Rest(place.url) as rest:
        yield Gateway(rest, Nobody() if public else choose_account(place))


def pauses() -> Iterator[float]:
    """Yield how many seconds to wait before asking again, without end: soon at first, then every half second."""
    return chain((0.02, 0.03, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.3), repeat(0.5))
