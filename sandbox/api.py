"""The provider's HTTP API. Amounts are `{"currency": "EUR", "nanos": "12500000000"}`, in billionths."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandbox.ledger import Charge, KeyReused, Ledger, NotRefundable, Refund, net

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    _Handler = Callable[[Request], Awaitable[Response]]

_MAX_BODY = 16 * 1024
_LONGEST_OUTAGE = 600
_DECLINES = {"tok_ok": None, "tok_slow": None, "tok_timeout": None, "tok_declined": "card_declined"}


def make_app(ledger: Ledger, closing: asyncio.Event, *, slow: float = 2.0, hold: float = 60.0) -> Starlette:
    """Return the API over `ledger`.

    `closing` ends answers that are held back. `slow` and `hold` are the seconds that `tok_slow` takes, and
    that `tok_timeout` holds a connection whose client does not leave.
    """
    api = Api(ledger, closing, slow, hold)
    outage = Outage()
    routes = [
        Route("/v1/charges", outage.over(api.charge), methods=["POST"]),
        Route("/v1/charges", outage.over(api.find_charge), methods=["GET"]),
        Route("/v1/charges/{charge_id}/refunds", outage.over(api.refund), methods=["POST"]),
        Route("/v1/ledger", api.show_ledger, methods=["GET"]),
        Route("/control/outage", outage.begin, methods=["POST"]),
        Route("/healthz", api.healthz, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _answer_error})


class Problem(HTTPException):
    """A request that is answered with `{"error": {"code", "message"}}`, and `more` beside them."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        self.error = {"code": code, "message": message, **more}
        super().__init__(status, message)


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """What POST /v1/charges was asked for."""

    currency: str
    nanos: int
    token: str
    reference: str

    @classmethod
    def parse(cls, body: bytes) -> ChargeRequest:
        """Read a JSON body. Raises `Problem` that names the wrong field."""
        document = _object(body)
        if not isinstance(document.get("amount"), dict):
            raise Problem(400, "invalid_amount", 'amount must be {"currency": "EUR", "nanos": "12500000000"}')
        amount = document["amount"]
        currency = _text(amount, "currency", r"[A-Z]{3}", "three capital letters")
        nanos = _text(amount, "nanos", r"[1-9][0-9]{0,18}", "a positive integer, as a string")
        if int(nanos) >= 2**63:
            raise Problem(400, "invalid_nanos", "nanos is too large")
        token = _text(document, "token", r"\S{1,255}", "a card's token")
        reference = _text(document, "reference", r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, - or _")
        return cls(currency, int(nanos), token, reference)

    def hash(self) -> str:
        """Return what tells this request from another one; the token cannot be read from it."""
        fields = json.dumps([self.currency, self.nanos, self.token, self.reference])
        return hashlib.sha256(fields.encode()).hexdigest()


class Api:
    """The routes, over one ledger."""

    def __init__(self, ledger: Ledger, closing: asyncio.Event, slow: float, hold: float) -> None:
        self._ledger = ledger
        self._closing = closing
        self._slow = slow
        self._hold = hold

    async def charge(self, request: Request) -> Response:
        """Charge once per Idempotency-Key; a repeat gets the same answer, and at once."""
        key = _idempotency_key(request)
        asked = ChargeRequest.parse(await _body(request))
        try:
            charge, is_new = self._ledger.charge(
                key,
                asked.hash(),
                reference=asked.reference,
                currency=asked.currency,
                nanos=asked.nanos,
                decline_reason=_DECLINES.get(asked.token, "unknown_token"),
            )
        except KeyReused:
            raise _key_reused() from None
        if is_new and asked.token == "tok_slow":
            await _first(self._closing.wait(), seconds=self._slow)
        if is_new and asked.token == "tok_timeout":
            await _first(self._closing.wait(), _left(request), seconds=self._hold)
            raise Problem(504, "timeout", "the answer is not known")
        return JSONResponse(_charge_json(charge), 201)

    async def find_charge(self, request: Request) -> Response:
        """Tell what became of the charge that was asked for with a key."""
        charge = self._ledger.charge_by_key(request.query_params.get("idempotency_key", ""))
        if charge is None:
            raise Problem(404, "no_such_charge", "no charge was made with this key")
        return JSONResponse(_charge_json(charge))

    async def refund(self, request: Request) -> Response:
        """Give a charge back, whole and once."""
        key = _idempotency_key(request)
        charge = self._ledger.charge_by_id(request.path_params["charge_id"])
        if charge is None:
            raise Problem(404, "no_such_charge", "there is no charge with this id")
        try:
            return JSONResponse(_refund_json(self._ledger.refund(key, charge)), 201)
        except KeyReused:
            raise _key_reused() from None
        except NotRefundable as error:
            if error.refund is None:
                raise Problem(409, "not_charged", str(error)) from None
            raise Problem(409, "already_refunded", str(error), refund=_refund_json(error.refund)) from None

    async def show_ledger(self, request: Request) -> Response:
        """Tell every charge and refund, and what was kept, of `?reference=` or of all."""
        charges, refunds = self._ledger.entries(request.query_params.get("reference"))
        kept = {
            reference: {currency: str(nanos) for currency, nanos in sums.items()}
            for reference, sums in net(charges, refunds).items()
        }
        return JSONResponse(
            {
                "charges": [_charge_json(c) for c in charges],
                "refunds": [_refund_json(r) for r in refunds],
                "net": kept,
            }
        )

    async def healthz(self, _: Request) -> Response:
        """Tell that it serves."""
        return JSONResponse({"status": "ok"})


class Outage:
    """A time in which the provider does not serve; none at first, and none after a restart."""

    def __init__(self) -> None:
        self._end = 0.0
        self._answers_lost = False

    async def begin(self, request: Request) -> Response:
        """Begin one that lasts as long as is asked for, instead of the one that may be."""
        asked = _object(await _body(request))
        seconds = asked.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_OUTAGE:
            raise Problem(400, "invalid_seconds", f"seconds must be a number from 0 to {_LONGEST_OUTAGE}")
        self._end = time.monotonic() + seconds
        self._answers_lost = asked.get("answers_lost") is True
        return JSONResponse({"seconds": seconds, "answers_lost": self._answers_lost})

    def over(self, handle: _Handler) -> _Handler:
        """Return `handle` as it is while there is an outage."""

        async def answer(request: Request) -> Response:
            if time.monotonic() >= self._end:
                return await handle(request)
            if self._answers_lost:
                with contextlib.suppress(HTTPException):
                    await handle(request)
            raise Problem(503, "outage", "the provider cannot serve now")

        return answer


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    shown = error.error if isinstance(error, Problem) else {"code": "http_error", "message": error.detail}
    return JSONResponse({"error": shown}, error.status_code, headers=error.headers)


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if not 0 < len(key) <= 255:
        raise Problem(400, "idempotency_key_required", "send an Idempotency-Key of 1 to 255 characters")
    return key


def _key_reused() -> Problem:
    return Problem(422, "idempotency_key_reused", "the key was used for another request")


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise Problem(413, "body_too_large", f"the body is larger than {_MAX_BODY} bytes")
    return body


def _object(body: bytes) -> dict[str, Any]:
    """Read a JSON body; what is no object has no fields. Raises `Problem` for what is no JSON."""
    try:
        document = json.loads(body)
    except ValueError:
        raise Problem(400, "invalid_body", "the body is not JSON") from None
    return document if isinstance(document, dict) else {}


async def _left(request: Request) -> None:
    # After the body there is nothing to receive but the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _first(*waits: Any, seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _text(document: dict[str, Any], field: str, pattern: str, what: str) -> str:
    value = document.get(field)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise Problem(400, f"invalid_{field}", f"{field} must be {what}")
    return value


def _charge_json(charge: Charge) -> dict[str, Any]:
    return {
        "id": charge.id,
        "status": "declined" if charge.decline_reason else "succeeded",
        "decline_reason": charge.decline_reason,
        "reference": charge.reference,
        "amount": {"currency": charge.currency, "nanos": str(charge.nanos)},
        "create_time": _time(charge.created),
    }


def _refund_json(refund: Refund) -> dict[str, Any]:
    return {
        "id": refund.id,
        "charge_id": refund.charge_id,
        "reference": refund.reference,
        "amount": {"currency": refund.currency, "nanos": str(refund.nanos)},
        "create_time": _time(refund.created),
    }


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat().replace("+00:00", "Z")
