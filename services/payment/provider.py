"""The payment provider, as its HTTP API is seen from here.

Every request carries an idempotency key that the caller keeps for ever, so any of them may be made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from weft.domain import Money, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_MADE = 201
_REFUSALS = frozenset({400, 404, 409, 422})


@dataclass(frozen=True, slots=True)
class Charged:
    """The amount was taken; `reference` is the provider's name of the charge."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The card was refused, and nothing was taken; `reason` is the provider's, as in `card_declined`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """The charge was given back; `reference` is the provider's name of the refund."""

    reference: str


class OutcomeUnknown(Unavailable):
    """No answer came, or none that tells: it may have happened. Ask again later, with the same key."""

    slug = "OUTCOME_UNKNOWN"


class ProviderRefused(Refused):
    """The provider understood the request and will never do it; `reason` is its code, in capitals."""

    slug = "PROVIDER_REFUSED"


class Provider:
    """A client of the provider at `url`, safe for any number of concurrent calls on one event loop.

    Give it back with `close`, or use it as an async context manager.
    """

    def __init__(self, url: str, *, timeout: float = 3.0, connect_timeout: float = 1.0, connections: int = 100) -> None:
        """Prepare; nothing is opened.

        A call takes `timeout` seconds at most, and to connect it takes `connect_timeout` of them at most.
        """
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def charge(
        self,
        key: str,
        order_id: str,
        amount: Money,
        token: str,
        *,
        repeat: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Charged | Declined:
        """Charge `amount` for the order, once per `key`.

        With `repeat`, for a key that may have been used before, it looks for that charge first. `headers` go
        with the requests, as a trace's do. Raises `OutcomeUnknown`, or `ProviderRefused`: then this request
        took nothing.
        """
        wanted = {"currency": amount.currency, "nanos": str(amount.nanos)}
        if repeat:
            status, body = await self._ask("GET", "/v1/charges", headers, params={"idempotency_key": key})
            if status == 200:
                return _charge_outcome(body, order_id, wanted)
        document = {"amount": wanted, "token": token, "reference": order_id}
        status, body = await self._ask("POST", "/v1/charges", headers, key=key, document=document)
        if status != _MADE:
            raise _refusal(body)
        return _charge_outcome(body, order_id, wanted)

    async def refund(self, key: str, charge_reference: str, *, headers: Mapping[str, str] | None = None) -> Refunded:
        """Give the whole charge back, once, also if it was given back under another key.

        Raises `OutcomeUnknown`, or `ProviderRefused` if there is no such charge or nothing was taken.
        """
        status, body = await self._ask("POST", f"/v1/charges/{charge_reference}/refunds", headers, key=key)
        if status != _MADE:
            refusal = _refusal(body)
            if refusal.reason != "ALREADY_REFUNDED":
                raise refusal
            body = body["error"].get("refund", {})
        return Refunded(_text(body, "id"))

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        *,
        key: str | None = None,
        document: object = None,
        params: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        sent = {**(headers or {}), **({"Idempotency-Key": key} if key else {})}
        try:
            async with self._open().request(
                method, self._url + path, headers=sent, json=document, params=params, allow_redirects=False
            ) as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise OutcomeUnknown(f"no answer from the payment provider: {type(error).__name__}") from error
        if response.status in (200, _MADE) or (response.status in _REFUSALS and _is_error(body)):
            return response.status, _object(body)
        raise OutcomeUnknown(f"the payment provider answered {response.status}, which tells nothing")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(limit=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _charge_outcome(body: dict[str, Any], order_id: str, wanted: dict[str, str]) -> Charged | Declined:
    if body.get("reference") != order_id or body.get("amount") != wanted:
        raise ProviderRefused("IDEMPOTENCY_KEY_REUSED", "the provider has another charge under this key")
    match body.get("status"):
        case "succeeded":
            return Charged(_text(body, "id"))
        case "declined":
            return Declined(_text(body, "decline_reason"))
        case status:
            raise OutcomeUnknown(f"the payment provider answered with the status {status!r}, which tells nothing")


def _refusal(body: dict[str, Any]) -> ProviderRefused:
    error = body["error"]
    return ProviderRefused(_text(error, "code").upper(), f"the payment provider refused: {error.get('message')}")


def _is_error(body: object) -> bool:
    return isinstance(body, dict) and isinstance(body.get("error"), dict)


def _object(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise OutcomeUnknown("the payment provider's answer is not a JSON object")
    return body


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise OutcomeUnknown(f"the payment provider's answer has no {field}")
    return value
