"""The routes of a gateway: every binding of every annotated method whose service has a backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from gateway.admission.query_token import is_free
from gateway.contract.descriptors import rules_of
from gateway.http.etags import guard_of, tags_of
from gateway.messages.mapping import CannotServe, Mapping
from gateway.messages.raw import RawReply, RawRequest, raw_reply, raw_request
from gateway.routing.router import Conflict, Router
from gateway.routing.template import parse
from gateway.streaming.formats import Formats
from gateway.streaming.positions import Resume, position_of
from gateway.streaming.streams import Streaming
from weft import CannotStart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from gateway.backends import Backends, Call
    from gateway.contract.descriptors import Contract, Method
    from gateway.http.etags import Guard, Tags
    from gateway.messages.codec import Codec

_STANDARD = ("get", "put", "post", "delete", "patch")


@dataclass(slots=True, eq=False)
class Route:
    """One way to call one method."""

    method: str
    """The HTTP method; `*` is any."""
    path: str
    """The template as the annotation has it."""
    rpc: str
    """`pkg.v1.Service/Method`."""
    mapping: Mapping
    call: Call | None
    """None for a method with streams."""
    decode: Callable[[bytes], Message]
    encode: Callable[[Message], bytes]
    streaming: Streaming | None = None
    """How its server stream is served; None for a method without, and where the client would stream too."""
    raw_reply: RawReply | None = None
    """What gives the body of an answer that is no JSON; None where it is."""
    raw_request: RawRequest | None = None
    """What takes the body of a request that is no JSON; None where it is."""
    tags: Tags | None = None
    """What tags its answers; None for those that are not tagged."""
    guard: Guard = field(kw_only=True)
    """What keeps the conditions of its requests."""
    span: str = field(init=False)
    """What its spans are called, and its metrics."""
    attributes: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.span = f"{self.method} {self.path}"
        self.attributes = {"http.request.method": self.method, "http.route": self.path}

    def __str__(self) -> str:
        return f"{self.method} {self.path} of {self.rpc}"


def make_routes(
    contract: Contract, served: Iterable[str], backends: Backends, codec: Codec
) -> tuple[Router[Route], list[Route]]:
    """Make the routes of the services `served`. Raises `CannotStart`, which names the methods at fault."""
    router: Router[Route] = Router()
    routes: list[Route] = []
    for service in dict.fromkeys(served):
        for method in contract.methods[service]:
            for rule in rules_of(method):
                route = _add(router, contract, codec, method, rule, backends)
                routes.append(route)
    return router, routes


def _add(
    router: Router[Route], contract: Contract, codec: Codec, method: Method, rule: HttpRule, backends: Backends
) -> Route:
    try:
        verb, path = pattern_of(rule)
        if rule is not method.rule and rule.additional_bindings:
            raise CannotServe("additional_bindings must not be nested")
        template = parse(path)
        request = contract.class_of(method.descriptor.input_type)
        mapping = Mapping(request, template, rule.body, codec, fills_mask=verb == "PATCH")
        reply = contract.class_of(method.descriptor.output_type)
        route = Route(
            method=verb,
            path=path,
            rpc=method.name,
            mapping=mapping,
            call=_call(contract, method, request, backends),
            decode=reply.FromString,
            encode=_encoder(codec, reply, rule.response_body),
            raw_reply=raw_reply(method.descriptor.output_type, rule.response_body),
            raw_request=raw_request(request, rule.body),
            guard=guard_of(verb, request, rule.body),
        )
        route.streaming = _streaming(contract, method, request, backends, route)
        if route.call is not None:
            route.tags = tags_of(verb, template, method.descriptor.output_type, rule.response_body)
        router.add(verb, template, route)
    except (CannotServe, ValueError) as error:
        shown = " ".join(str(rule).split())
        raise CannotStart(f"{method.name} cannot be served: {error}; its google.api.http is: {shown}") from error
    except Conflict as error:
        raise CannotStart(f"{verb} {path} of {method.name} is the same as {error.other}: change one of them") from error
    return route


def pattern_of(rule: HttpRule) -> tuple[str, str]:
    """Return the HTTP method and the path of a rule. Raises `CannotServe` if it has none."""
    kind = rule.WhichOneof("pattern")
    if kind in _STANDARD:
        return kind.upper(), str(getattr(rule, kind))
    if kind != "custom" or not rule.custom.kind:
        raise CannotServe("it has no HTTP method")
    return rule.custom.kind.upper(), rule.custom.path


def _call(contract: Contract, method: Method, request: type[Message], backends: Backends) -> Call | None:
    descriptor = method.descriptor
    if descriptor.client_streaming or descriptor.server_streaming:
        return None
    call: Call = _caller(contract, method, request, backends)
    return call


def _streaming(
    contract: Contract, method: Method, request: type[Message], backends: Backends, route: Route
) -> Streaming | None:
    descriptor = method.descriptor
    if descriptor.client_streaming or not descriptor.server_streaming:
        return None
    position = position_of(descriptor.input_type)
    return Streaming(
        call=_caller(contract, method, request, backends),
        decode=route.decode,
        formats=Formats(route.encode, position_of(descriptor.output_type), route.raw_reply),
        resume=Resume(request, position) if position else None,
        takes_token=route.method == "GET" and is_free(descriptor.input_type),
    )


def _caller(contract: Contract, method: Method, request: type[Message], backends: Backends) -> Any:
    """Return a `Call`, or a `StreamCall` for a method with a server stream."""
    descriptor = method.descriptor
    service = descriptor.containing_service.full_name
    if (field := contract.hosted_by.get(service)) is None:
        make = backends.stream if descriptor.server_streaming else backends.unary
        return make(service, descriptor.name)
    found = descriptor.input_type.fields_by_name.get(field)
    if found is None or found.type != found.TYPE_STRING or found.is_repeated:
        raise CannotServe(f"{descriptor.input_type.full_name} has no text field {field}, which is to say the host")
    return backends.hosted(service, descriptor.name, request, field, streams=descriptor.server_streaming)


def _encoder(codec: Codec, reply: type[Message], response_body: str) -> Callable[[Message], bytes]:
    if not response_body:
        return codec.write
    descriptor = cast("Descriptor", reply.DESCRIPTOR)
    found = descriptor.fields_by_name.get(response_body)
    if found is None:
        raise CannotServe(f"{descriptor.full_name} has no field {response_body}, which is to be the response body")
    return codec.write_field(found)
