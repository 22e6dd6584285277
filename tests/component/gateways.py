"""A gateway that does what a test needs: sessions that end when the test says so, and faults on demand."""

from __future__ import annotations

import base64
import json
import secrets
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_STATUS = {3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 14: 503, 16: 401}


@dataclass
class Account:
    """Somebody who can sign in."""

    password: str
    role: str = "customer"
    user: dict[str, Any] = field(default_factory=dict)


@dataclass
class Session:
    """What is good for something in one session."""

    email: str
    access: str
    refresh: str


@dataclass
class FakeGateway:
    """What it answers, and what it was asked."""

    url: str = ""
    accounts: dict[str, Account] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    lifetime: float = 600.0
    """For how many seconds access tokens are good, as it says."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each `METHOD /path` was asked for."""
    requests: list[tuple[web.Request, Any]] = field(default_factory=list)
    """Every request with its body."""
    faults: list[Callable[[], web.StreamResponse]] = field(default_factory=list)
    """How to answer the next requests, whatever they are."""
    orders: list[dict[str, Any]] = field(default_factory=list)
    """What each further request under /v1/orders is answered; the last one again and again."""

    def reject_tokens(self) -> None:
        """Accept no access token that was given out so far."""
        for session in self.sessions:
            session.access = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body: Any = await request.json() if request.can_read_body else None
        self.asked[f"{request.method} {request.path}"] += 1
        self.requests.append((request, body))
        if self.faults:
            return self.faults.pop(0)()
        if request.path in ("/v1/sessions", "/v1/sessions:refresh", "/v1/sessions:end"):
            return self._session(request.path, body)
        if (request.method, request.path) == ("POST", "/v1/users"):
            return self._register(body)
        session = self._signed_in(request)
        if session is None and not request.path.startswith("/v1/products"):
            return refuse(16, "the token is not valid")
        if session and request.path.startswith("/v1/users/"):
            return web.json_response(self.accounts[session.email].user)
        return web.json_response(self.orders.pop(0) if len(self.orders) > 1 else self.orders[0])

    def add(self, email: str, password: str, role: str = "customer", **more: Any) -> None:
        """Open an account."""
        user = {"userId": f"id-of-{email}", "email": email, "role": f"USER_ROLE_{role.upper()}", **more}
        self.accounts[email] = Account(password, role, user)

    def _register(self, body: dict[str, Any]) -> web.Response:
        if body["email"] in self.accounts:
            return refuse(6, "the email has an account")
        more = {name: value for name, value in body.items() if name in ("displayName", "address")}
        self.add(body["email"], body["password"], **more)
        return web.json_response(self.accounts[body["email"]].user)

    def _session(self, path: str, body: dict[str, str]) -> web.Response:
        if path == "/v1/sessions":
            account = self.accounts.get(body["email"])
            if account is None or account.password != body["password"]:
                return refuse(16, "the email or the password is wrong")
            self.sessions.append(Session(body["email"], "", ""))
            return self._tokens(self.sessions[-1])
        known = [session for session in self.sessions if session.refresh == body["refreshToken"]]
        if path == "/v1/sessions:end":
            self.sessions = [session for session in self.sessions if session not in known]
            return web.json_response({})
        return self._tokens(known[0]) if known else refuse(16, "the session has ended")

    def _tokens(self, session: Session) -> web.Response:
        account = self.accounts[session.email]
        claims = {"sub": account.user["userId"], "role": account.role, "jti": secrets.token_hex(4)}
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        session.access, session.refresh = f"head.{payload}.signature", secrets.token_hex(8)
        expires = datetime.now(UTC) + timedelta(seconds=self.lifetime)
        answer = {"accessToken": session.access, "refreshToken": session.refresh, "expireTime": expires.isoformat()}
        return web.json_response(answer)

    def _signed_in(self, request: web.Request) -> Session | None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        return next((session for session in self.sessions if session.access and session.access == sent), None)


def refuse(code: int, message: str, *fields: str, **headers: str) -> web.Response:
    """Return a `google.rpc.Status`, with a violation for each of `fields`."""
    found = [{"field": field, "description": "is wrong"} for field in fields]
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": found}] if found else []
    body = {"code": code, "message": message, "details": details}
    return web.json_response(body, status=_STATUS[code], headers=headers)


@asynccontextmanager
async def fake_gateway() -> AsyncIterator[FakeGateway]:
    """Yield a gateway that listens on a free port."""
    fake = FakeGateway()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}"
        yield fake
    finally:
        await runner.cleanup()
