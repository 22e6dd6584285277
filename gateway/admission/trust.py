"""Whose tokens a gateway trusts, and who may call each rpc with one, as the contract says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from weft import CannotStart
from weft.tasks import end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.admission.protection import ProtectionSettings
    from gateway.contract.descriptors import Contract
    from weft.access import Door
    from weft.tokens import Fetch, SigningKeys


class Trust:
    """The keys of the tokens' issuer, kept fresh from `start` to `close`; without them if the settings want none."""

    def __init__(self, settings: ProtectionSettings, contract: Contract) -> None:
        self.doors: Mapping[str, Door] = {}
        """Who may call each rpc, `pkg.v1.Service/Method`; empty where that is left to the services."""
        self._keys: SigningKeys | None = None
        self._fetch: Fetch | None = None
        self._refreshing: asyncio.Task[None] | None = None
        if settings.gateway_auth:
            self._verify(settings, contract)

    def _verify(self, settings: ProtectionSettings, contract: Contract) -> None:
        # A gateway that looks at no token does not pay for what verifies them.
        from weft.access import Door
        from weft.tokens import SigningKeys, Verifier, fetch_from

        if settings.jwks_url:
            self._fetch = fetch_from(settings.jwks_url)
        self._keys = SigningKeys(self._fetched, settings.jwks_refresh)
        verifier = Verifier(self._keys, issuer=settings.token_issuer, audience=settings.token_audience)
        methods = (method for service in contract.methods.values() for method in service)
        self.doors = {method.name: Door(method.access, verifier) for method in methods}

    def fetches(self, fetch: Fetch) -> None:
        """Get the keys by `fetch`, if the settings do not say where they are."""
        self._fetch = self._fetch or fetch

    @property
    def lacks_keys(self) -> bool:
        """Whether tokens cannot be verified yet."""
        return self._keys is not None and not self._keys.there

    def start(self) -> None:
        """Begin to fetch the keys. Raises `CannotStart` if nothing says from where."""
        if self._keys is None:
            return
        if self._fetch is None:
            raise CannotStart(
                "set WEFT_JWKS_URL, or --jwks-url: callers' tokens are verified with the keys that their issuer "
                "publishes there; or let the services alone look at tokens, with --no-auth (WEFT_GATEWAY_AUTH=false)"
            )
        self._refreshing = asyncio.create_task(self._keys.run(), name="keys-gateway")

    async def close(self) -> None:
        """Fetch no more."""
        if self._refreshing is not None:
            await end(self._refreshing)

    async def _fetched(self) -> Mapping[str, Any]:
        assert self._fetch is not None, "checked at the start"
        return await self._fetch()
