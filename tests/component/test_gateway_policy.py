"""The policy of the gateway, row by row, as docs/gateway.md has it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from yarl import URL

from tests.component.policy import CASES, Failure, packed
from tests.gateway_probe import SERVICE, ProbeServer, fronting, probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from tests.component.policy import Case

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"
NUMBERS = Counter(case.row for case in CASES)


class World:
    """A service, and two gateways in front of it: a plain one, and one that is told to relax."""

    def __init__(self, server: ProbeServer, clients: dict[str, aiohttp.ClientSession]) -> None:
        self.server = server
        self.clients = clients

    def answer(self, reply: dict[str, Any] | Failure) -> None:
        """Have the service answer so."""

        async def answer(request: Message, context: Any) -> Any:
            if isinstance(reply, Failure):
                details = [one if one.DESCRIPTOR.name == "Any" else packed(one) for one in reply.details]
                status = Status(code=reply.code.value[0], message=reply.text, details=details)
                trailing = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
                await context.abort(reply.code, reply.text, trailing)
            fields: dict[str, Any] = reply if isinstance(reply, dict) else {}
            name = self.server.called.rpartition("/")[2]
            return probe().class_of(METHODS[name].output_type)(**fields)

        self.server.forget(answer)


METHODS = {method.descriptor.name: method.descriptor for methods in probe().methods.values() for method in methods}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with ProbeServer().serving() as server:
        both = {SERVICE: server.address, "probe.v1.Shelves": server.address}
        relaxed: dict[str, Any] = {"gateway_lenient": True, "gateway_omit_defaults": True}
        async with (
            fronting(server.address, gateway_backends=both) as plain,
            fronting(server.address, gateway_backends=both, **relaxed) as other,
            aiohttp.ClientSession(f"http://127.0.0.1:{plain.port}") as to_plain,
            aiohttp.ClientSession(f"http://127.0.0.1:{other.port}") as to_other,
        ):
            yield World(server, {"plain": to_plain, "relaxed": to_other})


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}: {case.request}")
async def test_what_the_gateway_does(world: World, case: Case) -> None:
    world.answer(case.reply)
    method, _, path = case.request.partition(" ")
    body, headers = case.body, case.headers
    if body is not None and not isinstance(body, bytes):
        body, headers = orjson.dumps(body), headers | {"Content-Type": "application/json"}
    async with world.clients[case.gateway].request(
        method, URL(path, encoded=True), data=body, headers=headers, skip_auto_headers=("Accept-Encoding",)
    ) as reply:
        content = await reply.read()
        assert reply.status == case.status, content
        assert {name: reply.headers.get(name) for name in case.told} == case.told
    assert not [one for one in case.never if one.encode() in content]
    assert received(world.server) == case.received
    if isinstance(case.answer, bytes):
        assert content == case.answer
        return
    shown = orjson.loads(content)
    if case.reason:
        assert f"{detail(shown, 'domain')}/{detail(shown, 'reason')}" == case.reason
    if case.faults is not None:
        assert {one.get("field", ""): one["description"] for one in detail(shown, "fieldViolations")} == case.faults
    if isinstance(case.answer, dict):
        assert {name: shown.get(name) for name in case.answer} == case.answer
    elif case.answer is not None:
        assert shown == case.answer


def detail(error: dict[str, Any], name: str) -> Any:
    """Return the field of the first detail that has it."""
    return next(one[name] for one in error["details"] if name in one)


def received(server: ProbeServer) -> dict[str, Any] | None:
    """Return what the service got, or None if it heard of nothing."""
    if not server.requests:
        return None
    made: dict[str, Any] = json_format.MessageToDict(
        server.request, preserving_proto_field_name=True, descriptor_pool=probe().pool
    )
    return made


def rows() -> list[tuple[str, str]]:
    """Return the first and the last cell of each row of the page's tables whose last column is headed "shown by"."""
    found, inside = [], False
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[-1] == "shown by")
        if inside and cells[-1] != "shown by" and set(cells[-1]) != {"-"}:
            found.append((cells[0], cells[-1]))
    return found


def test_every_row_of_the_policy_has_a_case_and_every_case_a_row() -> None:
    named = [name for _, cell in rows() for name in re.findall(r"`([\w-]+)`", cell)]
    assert [row for row, cell in rows() if "`" not in cell] == []
    assert sorted(named) == sorted(NUMBERS)
