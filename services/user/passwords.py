"""Passwords as argon2id hashes (RFC 9106), a few at a time: each hash takes 64 MiB and a core for a moment."""

from __future__ import annotations

import asyncio
import os
import unicodedata
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from weft.domain import Exhausted

if TYPE_CHECKING:
    from collections.abc import Iterator


class Passwords:
    """Hashes and verifies on threads of its own."""

    def __init__(self, *, at_once: int, waiting: int, hasher: PasswordHasher | None = None) -> None:
        """`waiting` callers may have a place besides those `at_once`; without `hasher`, argon2-cffi's defaults."""
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="user-passwords")
        self._free = at_once + waiting
        self._nobodys = _hash_of_nothing(self._hasher)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place among those who hash or wait for it. Raises `Exhausted` if there is none."""
        if not self._free:
            raise Exhausted("too many passwords are being checked now: try again")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def hash(self, password: str) -> str:
        """Return the hash of a password, with its parameters and a salt of its own."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._hasher.hash, _bytes_of(password))

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Tell whether `hashed` is the password's hash; None is nobody's, which takes as long to find out."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._verify, hashed or self._nobodys, _bytes_of(password))

    def is_outdated(self, hashed: str) -> bool:
        """Tell whether a hash was made with other parameters than new ones are."""
        return self._hasher.check_needs_rehash(hashed)

    def _verify(self, hashed: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    async def close(self) -> None:
        """Finish what is being hashed, then end the threads."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


def _bytes_of(password: str) -> bytes:
    # The same characters, however a keyboard composed them.
    return unicodedata.normalize("NFKC", password).encode()


def _hash_of_nothing(hasher: PasswordHasher) -> str:
    """Return a hash with the hasher's parameters that no password has: its salt and digest are random."""
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    salt, digest = (b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (hasher.salt_len, hasher.hash_len))
    return f"$argon2id$v=19${cost}${salt}${digest}"
