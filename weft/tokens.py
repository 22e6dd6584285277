"""JSON Web Tokens (RFC 7519): verifying them with the keys that their issuer publishes (RFC 7517).

The last good keys are kept while the issuer does not answer. Verified tokens are remembered until they expire:
verifying a signature costs more than all else that the edge does.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import jwt

from weft import logs
from weft.domain import Unauthenticated, Unavailable, is_id
from weft.identity import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Fetch = Callable[[], Awaitable[Mapping[str, Any]]]
    """Returns a JSON Web Key Set."""

_log = logs.logger("weft.tokens")
_ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})
_BEARER = "bearer "
_REMEMBERED = 10_000
_LONGEST = 4_096
_TIMEOUT = 2.0
_MOST_BYTES = 1 << 20
_SOON = 0.2
_PATIENCE = 1.0
_LONGEST_WAIT = 2 * _TIMEOUT
_BETWEEN = 2.0


def fetch_from(url: str) -> Fetch:
    """Return what fetches the key set at `url`, which may be http, https or file."""

    def read() -> Mapping[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end, body = time.monotonic() + _TIMEOUT, bytearray()
        with opener.open(url, timeout=_TIMEOUT) as answer:
            # Part by part: the timeout is for each of them, and there may be no last one.
            while part := answer.read1(_MOST_BYTES):
                body += part
                if len(body) > _MOST_BYTES or time.monotonic() > end:
                    raise ValueError(f"the key set is over {_MOST_BYTES} bytes, or takes over {_TIMEOUT:g} s")
        found: Mapping[str, Any] = json.loads(body)
        return found

    return lambda: asyncio.to_thread(read)


class SigningKeys:
    """The issuer's public keys, as they were last heard of.

    They are fetched when `run` begins, every `refresh` seconds, and at once when a token names one that is
    not known, though not more often than every two seconds.
    """

    def __init__(self, fetch: Fetch, refresh: float) -> None:
        self._fetch = fetch
        self._refresh = refresh
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = asyncio.Event()
        self._asked_at = 0.0
        self._fetching: asyncio.Task[bool] | None = None
        self.withdrawn: list[Callable[[], None]] = []
        """Called when a key is no longer among the published ones."""

    @property
    def there(self) -> bool:
        """Whether there are keys to verify with, however old."""
        return bool(self._keys)

    async def run(self) -> None:
        """Keep the keys fresh."""
        while True:
            good = await self._update()
            await asyncio.sleep(self._refresh if good else _SOON if not self._keys else _BETWEEN)

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key of this id; None if the issuer does not publish it.

        Raises `Unavailable` as long as there are no keys at all.
        """
        if kid not in self._keys and time.monotonic() - self._asked_at > (_BETWEEN if self._keys else _SOON):
            await self._update()
        if not self._keys:
            await self._wait_for_first()
        return self._keys.get(kid)

    async def _wait_for_first(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._fetched.wait()
        except TimeoutError:
            raise Unavailable("tokens cannot be verified yet: there are no signing keys; try again") from None

    async def _update(self) -> bool:
        """Fetch the keys, whoever asks at the same time; tell whether that worked."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._load())
        try:
            # The fetch goes on if it takes longer, as looking up a host may: there is one at a time.
            async with asyncio.timeout(_LONGEST_WAIT):
                return await asyncio.shield(self._fetching)
        except TimeoutError:
            return False
        finally:
            if self._fetching is not None and self._fetching.done():
                self._fetching = None

    async def _load(self) -> bool:
        self._asked_at = time.monotonic()
        try:
            keys = _usable(await self._fetch())
        except Exception as error:
            # Whatever it was: the last good keys still hold.
            _log.warning("signing keys cannot be fetched", error=f"{type(error).__name__}: {error}")
            return False
        if not keys:
            _log.warning("the issuer publishes no signing keys that can be used")
            return False
        gone = self._keys.keys() - keys.keys()
        self._keys = keys
        self._fetched.set()
        if gone:
            for tell in self.withdrawn:
                tell()
        return True


def _usable(key_set: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    found: dict[str, jwt.PyJWK] = {}
    for one in key_set.get("keys", ()):
        try:
            key = jwt.PyJWK(one)
        except jwt.PyJWTError as error:
            _log.warning("a signing key is left out", kid=one.get("kid"), error=str(error))
            continue
        if key.key_id and key.algorithm_name in _ALGORITHMS:
            found[key.key_id] = key
    return found


class Verifier:
    """Verifies access tokens of one issuer for one audience."""

    def __init__(self, keys: SigningKeys, *, issuer: str, audience: str, leeway: float = 5.0) -> None:
        """`leeway` is by how many seconds the issuer's clock may differ from ours."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._verified: dict[str, tuple[Caller, float]] = {}
        keys.withdrawn.append(self._verified.clear)

    def known(self, authorization: str) -> Caller | None:
        """Return who sends this if it was verified before and has not expired."""
        found = self._verified.get(authorization)
        return found[0] if found is not None and found[1] > time.time() else None

    async def verify(self, authorization: str) -> Caller:
        """Return who sends `authorization` (RFC 6750). Raises `Unauthenticated` and `Unavailable`."""
        token = _token_in(authorization)
        if len(token) > _LONGEST:
            raise Unauthenticated("TOKEN_INVALID", "the token is too long to be one")
        key = await self._keys.find(_kid_of(token))
        if key is None:
            raise Unauthenticated("TOKEN_INVALID", "the token is not signed with a key of the issuer: sign in again")
        claims = self._claims(token, key)
        if not is_id(claims["sub"]):
            raise Unauthenticated("TOKEN_INVALID", "the token's subject cannot be a user's id")
        caller = Caller(claims["sub"], str(claims.get("role", "")), token)
        self._remember(authorization, caller, float(claims["exp"]) + self._leeway)
        return caller

    def _claims(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                # When it was issued says nothing about whether it holds (RFC 7519), and our clock may be behind.
                options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": False},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("TOKEN_EXPIRED", "the token has expired: refresh the session, or sign in") from None
        except jwt.PyJWTError as error:
            raise Unauthenticated("TOKEN_INVALID", f"the token is not valid here: {error}") from None
        return claims

    def _remember(self, authorization: str, caller: Caller, until: float) -> None:
        if len(self._verified) >= _REMEMBERED:
            # The oldest, which is among the first to expire.
            del self._verified[next(iter(self._verified))]
        self._verified[authorization] = (caller, until)


def _token_in(authorization: str) -> str:
    if authorization[: len(_BEARER)].lower() == _BEARER and (token := authorization[len(_BEARER) :].strip()):
        return token
    raise Unauthenticated("TOKEN_MISSING", "this needs a token: send `authorization: Bearer <access_token>`")


def _kid_of(token: str) -> str:
    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except jwt.PyJWTError:
        raise Unauthenticated("TOKEN_INVALID", "the token is not a JSON Web Token") from None
