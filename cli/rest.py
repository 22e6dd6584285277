"""Sends requests to a gateway, and turns its refusals into lines for people."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from http import HTTPStatus
from ipaddress import ip_address
from shlex import quote as quoted
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from yarl import URL

from cli.errors import OPERATOR, CallFailed, Problem
from cli.events import read_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from cli.events import Event

    Answer = dict[str, Any]
    """What the gateway answered: protobuf's JSON mapping."""

M = TypeVar("M", bound=Message)

_TIMEOUT = 15.0
_CONNECT = 5.0
_QUIET = 60.0
"""Seconds of silence after which a stream is given up: a gateway has a heartbeat in every 15."""
_LONGEST_PAUSE = 5
_UNKNOWN = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
"""What a request may end with that was done nevertheless (docs/guarantees.md)."""
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def normalise(url: str) -> str:
    """Return a gateway's address in the one form that sessions are kept under.

    Raises `Problem` for what is no address of a gateway.
    """
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    wrong = not parts.hostname or parts.username or parts.query or parts.fragment
    if wrong or parts.scheme not in ("http", "https"):
        raise Problem(f"'{url}' is no address of a gateway; write it as in http://127.0.0.1:8080")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def at(template: str, *values: str) -> str:
    """Return a path with `values` in the place of each `{}`, percent-encoded.

    Raises `Problem` for an empty one, which would be another path.
    """
    if not all(values):
        raise Problem("an id or a sku is empty")
    return template.format(*(quote(value, safe="") for value in values))


def read(answer: Answer, message: M) -> M:
    """Fill `message` from an answer, and return it; what is newer than this program is left out."""
    try:
        return ParseDict(answer, message, ignore_unknown_fields=True)
    except ParseError as error:
        raise Problem(f"the gateway's answer makes no sense to this program: {error}") from None


class unless:  # noqa: N801 - reads as the keyword that Python lacks
    """Leaves its `with` when a call in it fails with one of `codes`; any other failure goes on."""

    def __init__(self, *codes: str) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, CallFailed) and error.code in self._codes


class Rest:
    """One gateway, within a `with`; `url` is in the form that `normalise` returns."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._proxy = _proxy_for(url)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT, sock_connect=_CONNECT)
        self._http = aiohttp.ClientSession(timeout=timeout, trust_env=False, headers={"user-agent": "weft"})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Answer | None = None,
        token: str = "",
        patience: float | None = None,
        key: str = "",
    ) -> Answer:
        """Send one request and return what was answered; `path` is percent-encoded.

        `patience` is how many seconds the system may take; the gateway's own default without it. `key` is an
        idempotency key, for what is done once however often it is asked for.

        A GET, and what has a `key`, is repeated once if the gateway asks for it, with 503 and `Retry-After`, and what
        has a key also if no answer came. Raises `CallFailed` for a refusal and for no answer, which tells the key if
        it is not known what became of the request, and `Problem` for an answer that no gateway of Weft gives.
        """
        url = URL(self.url + path, encoded=True).update_query(query or {})
        headers = {"authorization": f"Bearer {token}"} if token else {}
        if patience is not None:
            headers["x-request-timeout"] = f"{patience:g}"
        if key:
            headers["idempotency-key"] = key
        try:
            status, pause, text = await self._exchange(method, url, headers, body)
        except _NoAnswer:
            if not key:
                raise
            status, pause, text = HTTPStatus.SERVICE_UNAVAILABLE, 1, ""
        if (method == "GET" or key) and status == HTTPStatus.SERVICE_UNAVAILABLE and pause is not None:
            await asyncio.sleep(min(pause, _LONGEST_PAUSE))
            try:
                status, _, text = await self._exchange(method, url, headers, body)
            except CallFailed as failed:
                raise _told_key(failed, key) from None
        answer = _parse(text)
        if status == HTTPStatus.OK and answer is not None:
            return answer
        raise _told_key(self._refusal(status, text), key)

    async def events(self, path: str, *, token: str = "", last_id: str = "") -> AsyncGenerator[Event, None]:
        """Yield the events of a stream, after the one with `last_id`; end if there can be no more of them.

        Raises `CallFailed` for a refusal, also in mid-stream, and with `UNAVAILABLE` when the stream is cut off.
        """
        headers = {"accept": "text/event-stream"}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        headers |= {"last-event-id": last_id} if last_id else {}
        url = URL(self.url + path, encoded=True)
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT, sock_read=_QUIET)
        try:
            async with self._http.get(
                url, headers=headers, proxy=self._proxy, timeout=timeout, allow_redirects=False
            ) as reply:
                if reply.status == HTTPStatus.NO_CONTENT:
                    return
                if reply.status != HTTPStatus.OK or reply.content_type != "text/event-stream":
                    raise self._refusal(reply.status, await reply.text(errors="replace"))
                async with aclosing(read_events(reply.content)) as found:
                    async for event in found:
                        if event.name == "error":
                            raise explain(_parse(event.data) or {})
                        yield event
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = f"nothing came for {_QUIET:g} s" if isinstance(error, TimeoutError) else type(error).__name__
            raise CallFailed("UNAVAILABLE", f"{self.url} cut the stream off ({why})", exit_code=OPERATOR) from None
        raise CallFailed("UNAVAILABLE", f"{self.url} ended the stream", exit_code=OPERATOR)

    def _refusal(self, status: int, text: str) -> Problem:
        answer = _parse(text)
        if status >= HTTPStatus.BAD_REQUEST and answer is not None and "code" in answer:
            return explain(answer)
        return Problem(f"{self.url} answered {status} and not as Weft's gateway does; is the address right?")

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> CallFailed:
        told = f"nothing answers at {self.url} ({error.strerror or error}); does `weft up` run?"
        return CallFailed("UNAVAILABLE", told, exit_code=OPERATOR)

    async def _exchange(
        self, method: str, url: URL, headers: dict[str, str], body: Answer | None
    ) -> tuple[int, int | None, str]:
        try:
            async with self._http.request(
                method, url, json=body, headers=headers, proxy=self._proxy, allow_redirects=False
            ) as answer:
                pause = answer.headers.get("retry-after", "")
                text = await answer.text(errors="replace")
                return answer.status, int(pause) if pause.isdecimal() else None, text
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _NoAnswer(f"{self.url} gave no answer ({_why(error)})", method, headers) from None


class _NoAnswer(CallFailed):
    """A request was sent, and what became of it is not known."""

    def __init__(self, told: str, method: str, headers: Mapping[str, str]) -> None:
        if method != "GET" and "idempotency-key" not in headers:
            told += "; whether it did what it was asked is not known: look before you ask again"
        super().__init__("UNAVAILABLE", told, exit_code=OPERATOR)


def _told_key(problem: Problem, key: str) -> Problem:
    """Return a problem that tells the request's key, if it has one, and leaves open what became of the request."""
    if not key or not isinstance(problem, CallFailed) or problem.code not in _UNKNOWN:
        return problem
    advice = f"whether it did what it was asked is not known: ask again with --idempotency-key {quoted(key)}"
    return problem.with_advice(advice)


def explain(status: Answer) -> CallFailed:
    """Say for people what a `google.rpc.Status` says: each wrong field on a line of its own."""
    name = _code_name(status.get("code"))
    details = [detail for detail in status.get("details", []) if isinstance(detail, dict)]
    violations = [
        (str(violation.get("field", "")), str(violation.get("description", "")))
        for detail in details
        if detail.get("@type") == _BAD_REQUEST
        for violation in detail.get("fieldViolations", [])
    ]
    if violations:
        lines = [f"{name}: not accepted", *(f"  {field}: {what}" for field, what in violations)]
        return CallFailed(name, "\n".join(lines), fields=[field for field, _ in violations])
    failed = CallFailed(name, f"{name}: {status.get('message') or 'no reason given'}")
    delays = [detail.get("retryDelay", "") for detail in details if detail.get("@type") == _RETRY_INFO]
    return failed.with_advice(f"try again in {delays[0].removesuffix('s')} s") if any(delays) else failed


def _code_name(code: object) -> str:
    try:
        return Code.Name(int(str(code)))
    except ValueError:
        return "UNKNOWN"


def _parse(text: str) -> Answer | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _why(error: BaseException) -> str:
    return f"waited {_TIMEOUT:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names; none stands between this machine and itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host):
        return None
    from urllib.request import getproxies, proxy_bypass

    return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
