"""The tokens of a session: access tokens, which anybody can verify, and refresh tokens, which only user knows.

An access token is a JSON Web Token (RFC 7519) signed with Ed25519 (RFC 8037). A refresh token names its session and
has 256 random bits; what is kept of it is its SHA-256.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from weft.domain import is_id, new_id

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from services.user.domain import Role
    from services.user.keys import SigningKey

_SESSION_BYTES = 16
_SECRET_BYTES = 32


class AccessTokens:
    """Signs access tokens for one issuer and audience."""

    def __init__(self, *, issuer: str, audience: str, lifetime: timedelta) -> None:
        self.lifetime = lifetime
        self._issuer = issuer
        self._audience = audience

    def sign(self, key: SigningKey, user_id: str, role: Role, now: datetime) -> tuple[str, datetime]:
        """Return a token that says who calls, and when it expires."""
        issued = now.replace(microsecond=0)
        expires = (now + self.lifetime).replace(microsecond=0)
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user_id,
            "role": role.value,
            "iat": issued,
            "exp": expires,
            "jti": new_id(),
        }
        private = Ed25519PrivateKey.from_private_bytes(key.private)
        return jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": key.kid}), expires


def new_session_id() -> str:
    """Return the id of a new session, which nobody can guess."""
    return secrets.token_urlsafe(_SESSION_BYTES)


def new_refresh_token(session_id: str) -> str:
    """Return a new refresh token of a session."""
    return f"{session_id}.{secrets.token_urlsafe(_SECRET_BYTES)}"


def session_in(refresh_token: str) -> str | None:
    """Return the id of the session that a refresh token names; None if it is none."""
    session_id = refresh_token.partition(".")[0]
    return session_id if is_id(session_id) else None


def hash_token(refresh_token: str) -> str:
    """Return what is kept of a refresh token."""
    return sha256(refresh_token.encode()).hexdigest()
