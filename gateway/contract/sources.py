"""What a gateway serves, and where that is: a file and its backends, or a server that describes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gateway.backends import check_hosts, service_of
from gateway.contract.descriptors import Contract, rules_of
from gateway.contract.reflection import reflect
from weft import CannotStart, logs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.settings import GatewaySettings

_log = logs.logger("weft.gateway")
_HOW_TO_ANNOTATE = (
    'add to a method, as in  option (google.api.http) = {get: "/v1/things/{id}"};  and at the top of its file  '
    'import "google/api/annotations.proto";'
)


class Source(NamedTuple):
    """A contract, and the backends of those of its services that are served."""

    contract: Contract
    backends: Mapping[str, str]
    """Where each service is, as in `WEFT_GATEWAY_BACKENDS`."""

    @property
    def services(self) -> Sequence[str]:
        """The services that are served."""
        return list(dict.fromkeys(map(service_of, self.backends)))


def open_source(settings: GatewaySettings) -> Source:
    """Read the contract, or ask for it. Raises `CannotStart`, also where there is nothing to serve."""
    if settings.gateway_descriptors is not None:
        name = str(settings.gateway_descriptors)
        source = Source(Contract.load(settings.gateway_descriptors), settings.gateway_backends)
    else:
        name = f"the server at {settings.gateway_reflect}"
        source = _ask(settings)
    _check(source, name)
    return source


def _ask(settings: GatewaySettings) -> Source:
    reflected = reflect(settings.gateway_reflect, settings.gateway_reflect_seconds)
    contract = Contract(reflected.files)
    # One that many host needs a backend for each, which has to be told.
    own = [service for service in reflected.services if service not in contract.hosted_by]
    return Source(contract, settings.gateway_backends or dict.fromkeys(own, settings.gateway_reflect))


def _check(source: Source, name: str) -> None:
    contract = source.contract
    for service in source.services:
        if service not in contract.methods:
            known = ", ".join(sorted(contract.methods)) or "no service at all"
            raise CannotStart(f"WEFT_GATEWAY_BACKENDS: {service} is not in {name}, which has {known}")
    check_hosts(source.backends, contract.hosted_by)
    silent = [one for one in source.services if not any(next(rules_of(m), None) for m in contract.methods[one])]
    if len(silent) == len(source.services):
        shown = ", ".join(silent) or "any service"
        raise CannotStart(f"nothing to serve: in {name} no method of {shown} is annotated: {_HOW_TO_ANNOTATE}")
    if silent:
        shown = ", ".join(silent)
        _log.info("services without annotated methods are not served", services=shown, hint=_HOW_TO_ANNOTATE)
