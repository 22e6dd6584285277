"""Who may do what, over every rpc of every service and every route of the gateway, as the contract lists them.

What a new rpc or route asks is in here by itself; an rpc that is for everybody with a token has to say whose its things
are, in `OWNED` or `EVERYBODYS`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import grpc
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from gateway.contract.descriptors import Contract, Method, rules_of
from tests.component.callers import bearer, issuer
from tests.component.whole import DESCRIPTORS, OPERATIONS, PASSWORD, WholeShop, whole_shop
from weft.testing import Issuer, eventually
from weftapi.v1.annotations_pb2 import ACCESS_ADMIN, ACCESS_PUBLIC

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from google.api.http_pb2 import HttpRule
    from google.protobuf.message import Message

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTS = ("user", "product", "order", "payment", "inventory", "shipping")
CONTRACT = Contract.load(DESCRIPTORS)
METHODS = {
    f"{service.rpartition('.')[2]}/{method.descriptor.name}": method
    for service, methods in CONTRACT.methods.items()
    for method in methods
}
GUARDED = [name for name, method in METHODS.items() if method.access != ACCESS_PUBLIC]
PUBLIC = [name for name, method in METHODS.items() if method.access == ACCESS_PUBLIC]
FOR_ADMINS = [name for name, method in METHODS.items() if method.access == ACCESS_ADMIN]
FOR_ALL = [name for name in GUARDED if name not in FOR_ADMINS]

NOT_FOUND, FORBIDDEN, TOKEN, OK = "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "OK"
OWNED = {
    "OrderService/GetOrder": NOT_FOUND,
    "OrderService/ListOrders": FORBIDDEN,
    "OrderService/CancelOrder": NOT_FOUND,
    "OrderService/WatchOrder": NOT_FOUND,
    "PaymentService/GetPayment": NOT_FOUND,
    "ShippingService/GetShipment": NOT_FOUND,
    "UserService/GetUser": NOT_FOUND,
    "UserService/UpdateUser": NOT_FOUND,
    "UserService/ChangePassword": NOT_FOUND,
}
"""What another customer is told who asks for what is not theirs."""
EVERYBODYS = {"InventoryService/GetStock", "OrderService/CreateOrder"}
"""What concerns nobody's things, or the caller's own whoever that is."""
DONE = {400: "INVALID_ARGUMENT", 401: TOKEN, 403: FORBIDDEN, 404: NOT_FOUND, 409: "ALREADY_EXISTS", 200: OK, 204: OK}

Outcome = tuple[str, str]
"""A status code, by its name, and the reason of the error."""


@dataclass(frozen=True, slots=True)
class World:
    """The shop with an order of ann's that was shipped, one to be cancelled, and what requests about them hold."""

    shop: WholeShop
    ann: str
    bob: str
    fields: dict[str, dict[str, Any]]

    def request(self, name: str, host: str = "") -> Message:
        """Return a request for an rpc about ann's things; of an rpc that is not known, one with nothing real in it."""
        method = METHODS[name]
        request = CONTRACT.class_of(method.descriptor.input_type)()
        ParseDict(self.fields.get(name, {}), request)
        if host:
            setattr(request, CONTRACT.hosted_by[OPERATIONS], host)
        for rule in rules_of(method):
            for path in variables(rule):
                *parents, last = path.split(".")
                holder = request
                for parent in parents:
                    holder = getattr(holder, parent)
                if not getattr(holder, last):
                    setattr(holder, last, "x")
        return request


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with whole_shop(tmp_path_factory.mktemp("matrix")) as shop:
        ann, bob, _ = await asyncio.gather(shop.register("ann"), shop.register("bob"), shop.stock("mug"))
        shipped, cancelled = await asyncio.gather(shop.order(ann, "mug"), shop.order(ann, "mug"))

        async def shipment() -> str:
            _, found = await shop.ask("GET", f"/v1/orders/{shipped}/shipment", None, bearer(ann, "customer"))
            return str(found.get("shipmentId", ""))

        async def confirmed() -> bool:
            _, order = await shop.ask("GET", f"/v1/orders/{shipped}", None, bearer(ann, "customer"))
            return bool(order["state"] == "ORDER_STATE_CONFIRMED")

        shipment_id = await eventually(shipment)
        await eventually(confirmed)
        line = {"sku": "mug", "quantity": 1}
        fields: dict[str, dict[str, Any]] = {
            "OrderService/CreateOrder": {"lines": [line], "payment_token": "tok_ok", "ship_to": {"region_code": "CH",
                                         "address_lines": ["1"]}},
            "OrderService/GetOrder": {"order_id": shipped},
            "OrderService/WatchOrder": {"order_id": shipped},
            "OrderService/CancelOrder": {"order_id": cancelled},
            "OrderService/ListOrders": {"user_id": ann},
            "PaymentService/GetPayment": {"order_id": shipped},
            "ShippingService/GetShipment": {"order_id": shipped},
            "ShippingService/Dispatch": {"shipment_id": shipment_id},
            "ShippingService/Deliver": {"shipment_id": shipment_id},
            "InventoryService/GetStock": {"sku": "mug"},
            "InventoryService/Restock": {"sku": "mug", "quantity": 1},
            "ProductService/CreateProduct": {"product": {"sku": "tee", "title": "Tee", "price": {
                                             "currency_code": "EUR", "units": 5}}},
            "ProductService/UpdateProduct": {"product": {"sku": "mug", "title": "Cup"}},
            "UserService/GetUser": {"user_id": ann},
            "UserService/UpdateUser": {"user": {"user_id": ann, "display_name": "Ann"}},
            "UserService/ChangePassword": {"user_id": ann, "current_password": PASSWORD, "new_password": PASSWORD},
        }  # fmt: skip
        yield World(shop, ann, bob, fields)


def variables(rule: HttpRule) -> list[str]:
    """Return the field paths in a rule's path."""
    _, path = pattern(rule)
    return [found.partition("=")[0] for found in re.findall(r"\{([^}]+)\}", path)]


def pattern(rule: HttpRule) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    return (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind.upper(), getattr(rule, kind))


def over_rest(rule: HttpRule, request: Message) -> tuple[str, str, Any]:
    """Return method, path with query, and JSON of a request that becomes this message."""
    verb, path = pattern(rule)
    left = MessageToDict(request, preserving_proto_field_name=True)
    for name in variables(rule):
        value: Any = left
        for part in name.split("."):
            value = value[part]
        path = re.sub(r"\{" + re.escape(name) + r"(=[^}]*)?\}", quote(value, safe=""), path)
        left.pop(name, None)
    if rule.body == "*":
        return verb, path, left
    body = left.pop(rule.body, {}) if rule.body else None
    query = {name: value for name, value in left.items() if not isinstance(value, dict | list)}
    return verb, f"{path}?{urlencode(query)}" if query else path, body


async def called(shop: WholeShop, method: Method, request: Message, service: str, authorization: str) -> Outcome:
    """Call a service directly; of a stream, the first message."""
    descriptor = method.descriptor
    path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
    metadata = (("authorization", authorization),) if authorization else ()
    channel: Any = shop.channels[service]
    try:
        if descriptor.server_streaming:
            stream = channel.unary_stream(path)(request.SerializeToString(), metadata=metadata, timeout=10)
            await stream.read()
            stream.cancel()
        else:
            await channel.unary_unary(path)(request.SerializeToString(), metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code().name, reason_of(error)
    return OK, ""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    told: Any = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in Status.FromString(told).details)
    return info.reason


async def asked(shop: WholeShop, rule: HttpRule, request: Message, authorization: str) -> Outcome:
    """Ask the gateway."""
    verb, path, body = over_rest(rule, request)
    status, answer = await shop.ask(verb, path, body, authorization)
    if status < 300:
        return OK, ""
    info = next(one for one in answer["details"] if one["@type"].endswith("ErrorInfo"))
    return DONE.get(status, str(status)), info["reason"]


def doors(world: World, name: str) -> Iterator[tuple[str, Callable[[str], Awaitable[Outcome]]]]:
    """Give every way to call an rpc: at each of its hosts, and by each of its routes."""
    method, service = METHODS[name], METHODS[name].descriptor.containing_service.full_name
    hosts = HOSTS if service in CONTRACT.hosted_by else ("",)
    for host in hosts:
        request = world.request(name, host)
        home = host or service.split(".")[1]
        yield f"gRPC {home}", partial(called, world.shop, method, request, home)
        for rule in rules_of(method):
            yield f"REST {host or ' '.join(pattern(rule))}", partial(asked, world.shop, rule, request)


async def outcomes(world: World, name: str, authorization: str) -> dict[str, Outcome]:
    """Return what every way to an rpc leads to; one after the other."""
    return {door: await call(authorization) for door, call in doors(world, name)}


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


@cache
def bad_tokens(folder: str) -> dict[str, str]:
    """Return every kind of token that is refused, with the claims of an admin."""
    ours, theirs = issuer(), Issuer(Path(folder))
    genuine = ours.token("ann", "admin")
    kid = jwt.get_unverified_header(genuine)["kid"]
    claims = jwt.decode(genuine, options={"verify_signature": False})
    key = ours._key.public_key()
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def swapped(secret: bytes, alg: str = "HS256") -> str:
        signed = f"{encoded({'alg': alg, 'kid': kid, 'typ': 'JWT'})}.{encoded(claims)}"
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    def signed(**headers: object) -> str:
        return jwt.encode(claims, ours._key, algorithm="EdDSA", headers={"kid": kid, **headers})

    head, body, signature = genuine.split(".")
    return {
        "missing": "",
        "of another scheme": "Basic YW5uOnB3",
        "empty": "Bearer ",
        "garbage": "Bearer garbage",
        "expired": f"Bearer {ours.token('ann', 'admin', lifetime=-60)}",
        "not valid yet": f"Bearer {ours.token('ann', 'admin', nbf=time.time() + 3600)}",
        "of another issuer": f"Bearer {ours.token('ann', 'admin', iss='somebody else')}",
        "for another audience": f"Bearer {ours.token('ann', 'admin', aud='another system')}",
        "of an unknown key": f"Bearer {theirs.token('ann', 'admin')}",
        "of an unknown key under a known id": f"Bearer {jwt.encode(claims, theirs._key, 'EdDSA', {'kid': kid})}",
        "alg none": f"Bearer {encoded({'alg': 'none', 'kid': kid})}.{encoded(claims)}.",
        "alg NONE with the signature": f"Bearer {encoded({'alg': 'NONE', 'kid': kid})}.{body}.{signature}",
        "alg swapped, the raw public key": f"Bearer {swapped(raw)}",
        "alg swapped, the public key as PEM": f"Bearer {swapped(pem)}",
        "alg said to be EdDSA": f"Bearer {swapped(raw, 'EdDSA')}",
        "unknown crit": f"Bearer {signed(crit=['x-unknown'], **{'x-unknown': True})}",
        "without its signature": f"Bearer {head}.{body}.",
        "with other claims": f"Bearer {head}.{encoded({**claims, 'sub': 'eve'})}.{signature}",
    }


async def test_every_rpc_says_whose_its_things_are() -> None:
    assert set(FOR_ALL) == {*OWNED, *EVERYBODYS}, "list new rpcs in OWNED or EVERYBODYS, and give them a request"


@pytest.mark.parametrize("name", GUARDED)
async def test_what_is_no_good_token_is_refused_everywhere(world: World, tmp_path_factory: Any, name: str) -> None:
    tokens = bad_tokens(str(tmp_path_factory.getbasetemp()))
    let_in = []
    for kind, authorization in tokens.items():
        for door, (code, reason) in (await outcomes(world, name, authorization)).items():
            if code != TOKEN or not reason.startswith("TOKEN_"):
                let_in.append(f"{kind} by {door}: {code} {reason}")
    assert let_in == []


@pytest.mark.parametrize("name", PUBLIC)
async def test_what_is_public_does_not_look_at_tokens(world: World, tmp_path_factory: Any, name: str) -> None:
    expected = await outcomes(world, name, "")
    assert not [door for door, (_, reason) in expected.items() if reason.startswith("TOKEN_")]
    tokens = bad_tokens(str(tmp_path_factory.getbasetemp()))
    for kind in ("garbage", "expired", "of an unknown key", "alg none"):
        assert await outcomes(world, name, tokens[kind]) == expected, kind


@pytest.mark.parametrize("name", FOR_ADMINS)
async def test_what_is_for_admins_is_refused_to_customers_everywhere(world: World, name: str) -> None:
    for role in ("customer", "", "Admin"):
        told = await outcomes(world, name, bearer(world.ann, role))
        assert set(told.values()) == {(FORBIDDEN, "PERMISSION_DENIED")}, told


@pytest.mark.parametrize("name", FOR_ADMINS)
async def test_what_is_for_admins_is_let_to_them_everywhere(world: World, name: str) -> None:
    told = await outcomes(world, name, bearer("root", "admin"))
    while ("FAILED_PRECONDITION", "ORDER_NOT_CONFIRMED") in told.values():  # Shipping hears of it a moment later.
        told = await outcomes(world, name, bearer("root", "admin"))
    assert not {code for code, _ in told.values()} & {TOKEN, FORBIDDEN}, told
    if name in world.fields:
        assert (OK, "") in told.values(), told


@pytest.mark.parametrize("name", list(OWNED))
async def test_what_is_somebodys_is_refused_to_others_everywhere(world: World, name: str) -> None:
    told = await outcomes(world, name, bearer(world.bob, "customer"))
    assert {code for code, _ in told.values()} == {OWNED[name]}, told


@pytest.mark.parametrize("name", FOR_ALL)
async def test_what_is_ones_own_is_let_everywhere(world: World, name: str) -> None:
    told = await outcomes(world, name, bearer(world.ann, "customer"))
    assert set(told.values()) == {(OK, "")}, told


@pytest.mark.parametrize("name", [name for name in OWNED if name != "UserService/ChangePassword"])
async def test_what_is_somebodys_is_let_to_admins_everywhere(world: World, name: str) -> None:
    told = await outcomes(world, name, bearer("root", "admin"))
    assert set(told.values()) == {(OK, "")}, told
