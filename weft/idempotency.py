"""Idempotency keys at the edge: a caller who does not know what became of a call makes it again, with the same key.

That is the metadata `idempotency-key` (over HTTP the header Idempotency-Key, as the IETF drafts it), on methods that
their contract marks with `weftapi.v1.keeps_answer`. The same request gets the answer of the first time; a key counts
for one user and one method. The edge looks before the servicer runs, so an answer is given again while what the
servicer needs is down; the writer looks once more (see `weft.answers`), for what was under way meanwhile, and the edge
again when the servicer refuses.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from weft import answers, identity
from weft.access import contract_of, rule_of
from weft.answers import Asked, Place
from weft.clock import micros
from weft.domain import InvalidInput, Violation, WeftError
from weftapi.v1.annotations_pb2 import ACCESS_PUBLIC, keeps_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from google.protobuf.message import Message

    from weft.clock import Clock
    from weft.writer import Reader, Transaction

    Serve = Callable[[Any, Any], Awaitable[Any]]
    """Answers a request, with its context."""

_METADATA = "idempotency-key"
_RULE = "must be sent once, with 1 to 255 printable characters of ASCII, alone or as a quoted string (RFC 8941)"
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_CLEAN_AT_ONCE = 1000


def key_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Return the idempotency key of a call; None if it has none. Raises `InvalidInput` for what is no key."""
    sent = [value for name, value in metadata if name == _METADATA]
    if not sent:
        return None
    key = _unquoted(str(sent[0])) if len(sent) == 1 else ""
    if not _KEY.fullmatch(key):
        raise InvalidInput(Violation(_METADATA, _RULE))
    return key


def _unquoted(value: str) -> str:
    """Return the text of a quoted string (RFC 8941, 3.3.3), or what is not quoted as it is; nothing if malformed."""
    if not value.startswith('"'):
        return value
    quoted = _QUOTED.fullmatch(value)
    return _ESCAPED.sub(r"\1", quoted[1]) if quoted else ""


def digest_of(request: Message) -> bytes:
    """Return the SHA-256 of a request: equal for equal requests to the same program."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def reply_kept(method: str) -> type[Message] | None:
    """Return what `package.Service/Method` answers if its contract says that the answer is kept, else None.

    Raises `ValueError` where that cannot be: answers belong to a caller, and are one message.
    """
    contract = contract_of(method)
    if contract is None or not contract.GetOptions().Extensions[keeps_answer]:
        return None
    if rule_of(method) == ACCESS_PUBLIC:
        raise ValueError(f"{method} cannot keep its answers: it is public, and nobody is known to whom they belong")
    if contract.client_streaming or contract.server_streaming:
        raise ValueError(f"{method} cannot keep its answers: it has streams")
    return message_factory.GetMessageClass(contract.output_type)


class KeptAnswers:
    """The kept answers of one service, as its calls see them."""

    def __init__(self, reader: Reader, clock: Clock, hours: float) -> None:
        """Answers are kept for so many `hours`."""
        self._reader = reader
        self._clock = clock
        self._lifetime = int(hours * 3_600_000_000)

    def around(self, method: str, serve: Serve) -> Serve:
        """Return what serves the calls to `package.Service/Method`: `serve` itself, unless its answers are kept.

        Raises `ValueError` for a method that cannot keep its answers.
        """
        reply = reply_kept(method)
        if reply is None:
            return serve

        async def serve_once(request: Message, context: Any) -> Message:
            asked = Asked(method, reply)
            key = key_of(context.invocation_metadata())
            if key is None:
                return await _serve(asked, serve, request, context)
            asked.place = Place(identity.caller().subject, method, key)
            asked.digest, asked.lifetime = digest_of(request), self._lifetime
            if (earlier := await self._find(asked)) is not None:
                return earlier
            try:
                return await _serve(asked, serve, request, context)
            except WeftError:
                # Perhaps because of what the first one did, while this one was on its way.
                if (earlier := await self._find(asked)) is not None:
                    return earlier
                raise

        return serve_once

    async def _find(self, asked: Asked) -> Message | None:
        return await self._reader.look_up(answers.find, asked, self._clock.now())

    def clean(self, transaction: Transaction) -> bool:
        """Remove answers that are kept no more, the oldest first; return whether there may be more of them."""
        past = micros(transaction.now) - self._lifetime
        return answers.remove_until(transaction.connection, past, _CLEAN_AT_ONCE) == _CLEAN_AT_ONCE


async def _serve(asked: Asked, serve: Serve, request: Message, context: Any) -> Message:
    with answers.asking(asked):
        reply = await serve(request, context)
    kept: Message | None = None if asked.answer is None else asked.answer.message
    if kept is None or kept is not reply:
        raise RuntimeError(f"{asked.method} has to answer with what Writer.answer returned: only that is kept")
    return kept
