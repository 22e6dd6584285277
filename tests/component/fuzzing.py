"""Requests to all operations of the commerce API, made from what its description says, and answers held against that.

Each operation is called as nobody, as a customer and as an admin: with the document's own example, and with what
schemathesis makes of the schemas, valid and not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi import checks

from tests.component.whole import PASSWORD

if TYPE_CHECKING:
    from schemathesis import APIOperation

    from tests.component.commerce import Commerce

    Operation = APIOperation[Any, Any, Any, Any]

_CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
_SECONDS = 10
"""In which each request is answered, streams included."""


class Fuzzer:
    """Calls operations, and holds what comes back against the document."""

    def __init__(self, shop: Commerce, document: dict[str, Any], *, valid: int, invalid: int) -> None:
        """So many of each kind are made for each operation and caller, always the same."""
        self.statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """What each operation answered, by its name."""
        self.faults: list[str] = []
        """What was not as the document says."""
        self._url = shop.url
        self._known = _known(shop)
        self._callers = ("", shop.customer, shop.admin)
        self._counts = {GenerationMode.POSITIVE: valid, GenerationMode.NEGATIVE: invalid}
        found: Any = schemathesis.openapi.from_dict(document).get_all_operations()
        self._operations: list[Operation] = [one.ok() for one in found]

    def run(self) -> None:
        """Call all operations."""
        for authorization in self._callers:
            with requests.Session() as session:
                session.headers.update({"Authorization": authorization} if authorization else {})
                for operation in self._operations:
                    self._call(self._example(operation), session)
                    for mode, count in self._counts.items():
                        self._fuzz(operation, mode, count, session)

    def _example(self, operation: Operation) -> Any:
        """Return the request that the document shows, about things that are there."""
        raw = operation.definition.raw
        body = raw.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        known = self._known_of(operation)
        options: dict[str, Any] = {} if body is None else {"body": _real(body, known), "media_type": "application/json"}
        return operation.Case(path_parameters=self._place(operation), **options)

    def _place(self, operation: Operation) -> dict[str, Any]:
        known = self._known_of(operation)
        return {one.name: known.get(one.name, "unknown") for one in operation.path_parameters}

    def _known_of(self, operation: Operation) -> dict[str, Any]:
        return {**self._known, **self._known.get(_name_of(operation), {})}

    def _fuzz(self, operation: Operation, mode: GenerationMode, count: int, session: Any) -> None:
        # What is valid is about things that are there: else it would be 404, again and again.
        place = self._place(operation) if mode is GenerationMode.POSITIVE else None

        @settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode, path_parameters=place))
        def call(case: Any) -> None:
            self._call(case, session)

        # There may be nothing that could be wrong, as with text in a path.
        with nullcontext() if mode is GenerationMode.POSITIVE else suppress(Unsatisfiable):
            call()

    def _call(self, case: Any, session: requests.Session) -> None:
        response = case.call(base_url=self._url, session=session, timeout=_SECONDS)
        name, status = _name_of(case.operation), response.status_code
        self.statuses[name][status] += 1
        try:
            case.validate_response(response, checks=_CONFORMANCE)
        except* Failure as failed:
            self.faults += [f"{name}: {one}" for one in failed.exceptions]
        if status >= 500 or str(status) not in case.operation.definition.raw["responses"]:
            self.faults.append(f"{name}: {status} {response.text}, after {case.as_curl_command()}")


def _name_of(operation: Operation) -> str:
    return str(operation.definition.raw["operationId"])


def _real(value: Any, known: dict[str, Any]) -> Any:
    """Return an example in which all is real that is known by the names of fields."""
    if isinstance(value, list):
        return [_real(one, known) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: known.get(name, _real(one, known)) for name, one in value.items()}


def _known(shop: Commerce) -> dict[str, Any]:
    """Return values that are real by the names of fields and parameters; for single operations, by these."""
    return {
        "sku": shop.sku,
        "orderId": shop.prepared,
        "shipmentId": shop.prepared,
        "aggregateId": shop.prepared,
        "userId": shop.user_id,
        "email": shop.email,
        "password": PASSWORD,
        "paymentToken": "tok_ok",
        "refreshToken": shop.refresh_token,
        "service": "payment",
        "consumer": "payment-from-order",
        "filter": {},
        "letterIds": [],
        "dryRun": True,
        "readModel": "letters",
        "ProductService_CreateProduct": {"sku": "cup"},
        "UserService_RegisterUser": {"email": "bob@example.com"},
        "OrderService_WatchOrder": {"orderId": shop.ended},
        "OrderService_CancelOrder": {"orderId": shop.ended},
    }
