"""The document: what a gateway serves, in OpenAPI 3.1, from the descriptors of its services and their comments."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from gateway.contract.descriptors import rules_of
from gateway.openapi.examples import Examples
from gateway.openapi.operations import Binding, Operations
from gateway.openapi.parameters import Parameters
from gateway.openapi.paths import path_of, places, shape
from gateway.openapi.responses import details_of, error_responses, error_schema
from gateway.openapi.schemas import Schemas, reachable
from gateway.routes import pattern_of
from gateway.routing.template import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.contract.descriptors import Contract

    Schema = dict[str, Any]

_VERBS = {"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"}
_FIELD = re.compile(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`")
_ABOUT = """\
gRPC services as REST and JSON, as the `google.api.http` annotations of their contract say.

JSON is as [protobuf maps it](https://protobuf.dev/programming-guides/json): 64-bit numbers are strings, bytes are \
base64, a value of an enum that is newer than this description is its number, and the contract's own names of fields \
(`like_this`) are taken beside those of JSON.

The header `X-Request-Timeout` says how many seconds a request may take. `traceparent` and `tracestate` (W3C) and \
`X-Request-Id` pass on to the services."""
_BEARER: Schema = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "An access token (RFC 6750).",
}


def describe(
    contract: Contract,
    served: Iterable[str],
    *,
    guarded: bool = True,
    lenient: bool = False,
    omits_defaults: bool = False,
) -> Schema:
    """Return the document of the services `served`, by their full names.

    `guarded` is whether methods need a token unless the contract says otherwise; `lenient` whether unknown fields pass;
    `omits_defaults` whether answers lack fields that have their default value.
    """
    services = [*dict.fromkeys(served)]
    bindings = _shared([binding for service in services for binding in _bindings(contract, service)])
    details = details_of(contract.pool)
    answered = reachable(*(binding.method.descriptor.output_type for binding in bindings))
    sent, told = reachable(*(binding.method.descriptor.input_type for binding in bindings)), reachable(*details)
    comments = _in_json_names(contract, answered | sent)
    written = set() if omits_defaults else answered - sent - told
    schemas = Schemas(comments, answered | told, written, lenient=lenient)
    examples = Examples(comments)
    error = error_schema(schemas, details)
    parameters = Parameters(comments, schemas, examples)
    operations = Operations(comments, schemas, examples, parameters, error, guarded=guarded)
    tags = _tags(services)
    document: Schema = {"openapi": "3.1.0", "info": _info(services), "servers": [{"url": "/"}]}
    document["tags"] = [_tag(tags[one], comments.get(one, "")) for one in services]
    document["paths"] = _paths(bindings, operations, tags)
    document["components"] = {"schemas": dict(sorted(schemas.made.items())), "responses": error_responses(error)}
    if guarded:
        document["components"]["securitySchemes"] = {"bearer": _BEARER}
    return document


def _in_json_names(contract: Contract, messages: Iterable[str]) -> dict[str, str]:
    """Return the comments of a contract with the JSON names of the fields that they name in backquotes."""
    fields = (field for name in messages for field in contract.pool.FindMessageTypeByName(name).fields)
    names = {field.name: field.json_name for field in fields}
    return {
        about: _FIELD.sub(lambda match: f"`{names.get(match[1], match[1])}`", comment)
        for about, comment in contract.comments.items()
    }


def _bindings(contract: Contract, service: str) -> Iterator[Binding]:
    for method in contract.methods[service]:
        for rule in rules_of(method):
            verb, path = pattern_of(rule)
            template = parse(path)
            found = places(template, method.descriptor.input_type)
            yield Binding(method, rule, verb, template, found, [place.name for place in found])


def _shared(bindings: Sequence[Binding]) -> list[Binding]:
    """Give the bindings of one path the names of the one that has the shortest."""
    chosen: dict[str, list[str]] = {}
    for binding in sorted(bindings, key=lambda one: sum(map(len, one.names))):
        chosen.setdefault(shape(binding.template), binding.names)
    return [
        Binding(one.method, one.rule, one.verb, one.template, one.places, chosen[shape(one.template)])
        for one in bindings
    ]


def _paths(bindings: Iterable[Binding], operations: Operations, tags: dict[str, str]) -> Schema:
    paths: dict[str, Schema] = {}
    count: Counter[str] = Counter()
    for binding in bindings:
        item = paths.setdefault(path_of(binding.template, binding.names), {})
        tag = tags[binding.method.descriptor.containing_service.full_name]
        name = f"{tag.replace('.', '_')}_{binding.method.descriptor.name}"
        count[name] += 1
        verb = binding.verb.lower()
        if binding.verb in _VERBS and verb not in item:
            item[verb] = operations.make(binding, name + (str(count[name]) if count[name] > 1 else ""), tag)
        else:
            item["description"] = "\n\n".join(filter(None, (item.get("description"), _unsaid(binding))))
    return paths


def _unsaid(binding: Binding) -> str:
    """Return what is said in words, as OpenAPI has no place for it: other HTTP methods, paths that differ in `**`."""
    method = "any other method" if binding.verb == "*" else binding.verb
    return f"There is also {method} {binding.template.text}, which is `{binding.method.name}`."


def _tags(services: Sequence[str]) -> dict[str, str]:
    """Return short names for the services: without their packages, where that is clear."""
    short = Counter(one.rpartition(".")[2] for one in services)
    return {one: name if short[name := one.rpartition(".")[2]] == 1 else one for one in services}


def _tag(name: str, comment: str) -> Schema:
    return {"name": name, "description": comment} if comment else {"name": name}


def _info(services: Sequence[str]) -> Schema:
    packages = sorted({one.rpartition(".")[0] for one in services})
    versions = sorted({one.rpartition(".")[2] for one in packages})
    title = " and ".join(sorted({one.partition(".")[0] for one in packages}))
    return {"title": f"{title} over REST", "version": ", ".join(versions), "description": _ABOUT}
