"""The keys that sign access tokens, and when each of them begins and is gone.

A key is published before its first token and until after its last one has expired, each time for longer than
verifiers go without a look at the published keys: so nobody ever meets a token whose key they do not know.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from weft.domain import Aggregate, new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Schedule:
    """For how long a key signs, and for how long it is published before and after that."""

    period: timedelta
    overlap: timedelta


class SigningKey(Aggregate):
    """An Ed25519 key (RFC 8032). Keys are numbered: no two can follow the same one.

    `longest` is the longest lifetime of the tokens that it signed.
    """

    __slots__ = ("create_time", "kid", "longest", "number", "private", "public", "sign_from")

    def __init__(
        self,
        *,
        kid: str,
        number: int,
        private: bytes,
        public: bytes,
        sign_from: datetime,
        longest: timedelta,
        create_time: datetime,
    ) -> None:
        super().__init__()
        self.kid = kid
        self.number = number
        self.private = private
        self.public = public
        self.sign_from = sign_from
        self.longest = longest
        self.create_time = create_time

    @classmethod
    def generate(cls, *, number: int, sign_from: datetime, now: datetime) -> Self:
        """Return a new key that signs from a time on."""
        private = Ed25519PrivateKey.generate()
        return cls(
            kid=new_id(),
            number=number,
            private=private.private_bytes_raw(),
            public=private.public_key().public_bytes_raw(),
            sign_from=sign_from,
            longest=now - now,
            create_time=now,
        )

    def sign_for(self, lifetime: timedelta) -> None:
        """Remember that it signs a token that is good for `lifetime`."""
        self.longest = max(self.longest, lifetime)


def first_or_next(keys: Sequence[SigningKey], schedule: Schedule, now: datetime) -> SigningKey | None:
    """Return the key to publish now, after `keys`, which are sorted by number; None if it is too early."""
    if not keys:
        return SigningKey.generate(number=1, sign_from=now, now=now)
    last = keys[-1]
    sign_from = last.sign_from + schedule.period
    if now < sign_from - schedule.overlap:
        return None
    return SigningKey.generate(number=last.number + 1, sign_from=max(sign_from, now + schedule.overlap), now=now)


def signing_one(keys: Sequence[SigningKey], now: datetime) -> SigningKey:
    """Return the one of `keys`, sorted by number, that signs now."""
    begun = [key for key in keys if key.sign_from <= now]
    return (begun or keys[:1])[-1]


def retired(keys: Sequence[SigningKey], schedule: Schedule, now: datetime) -> Iterable[SigningKey]:
    """Return those of `keys`, sorted by number, whose last token has expired long enough ago."""
    return [one for one, later in pairwise(keys) if later.sign_from + one.longest + schedule.overlap <= now]


def web_key(kid: str, public: bytes) -> dict[str, str]:
    """Return a public key as a JSON Web Key (RFC 7517, RFC 8037)."""
    x = urlsafe_b64encode(public).rstrip(b"=").decode()
    return {"kid": kid, "kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA"}
