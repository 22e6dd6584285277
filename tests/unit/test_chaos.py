"""The plan of `weft chaos`, and that its audit finds what it is there to find."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.chaos.audit import Audit
from cli.chaos.books import Amount, Books, Level, Violation, find_violations
from cli.chaos.deliveries import Deliveries
from cli.chaos.desk import Desk
from cli.chaos.exposure import AFTERMATH, Span, disturbances, open_work, was_open
from cli.chaos.faults import Incident, Injector
from cli.chaos.house import House
from cli.chaos.plan import Counts, Fault, Kind, Link, Stage, make_plan
from cli.chaos.report import CLEAN, UNPROVEN, Course, Report, sum_up
from cli.chaos.requests import Log, Request, Wish
from cli.chaos.sources import Event, history_of
from cli.chaos.verdict import Outside, Tally, judge, why_unproven
from cli.data import DataDirectory
from cli.errors import Problem
from cli.main import app
from commerce.order.v1 import order_service_pb2 as orders
from weft.tasks import happens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli.chaos.customers import Customers

STAGE = Stage(
    ("nats-server", "sandbox", "order", "order-2", "payment", "gateway"),
    (Link("order", "nats-server", "client"), Link("payment", "sandbox", "http")),
    broker="nats-server",
    provider="sandbox",
)
COUNTS = st.builds(Counts, *(st.integers(0, 30) for _ in range(5)))


@given(st.integers(), COUNTS)
def test_the_same_seed_makes_the_same_plan(seed: int, counts: Counts) -> None:
    assert make_plan(seed, counts, STAGE, 100) == make_plan(seed, counts, STAGE, 100)


@given(st.integers(), COUNTS)
def test_a_plan_has_all_faults_in_time_and_hits_every_process_alike(seed: int, counts: Counts) -> None:
    plan = make_plan(seed, counts, STAGE, 100, longest_pause=3)
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    assert all(0 <= fault.at <= 100 for fault in plan)
    kinds = Counter(fault.kind for fault in plan)
    assert [kinds[kind] for kind in (Kind.KILL, Kind.PAUSE, Kind.CUT, Kind.OUTAGE, Kind.RESTART)] == [
        counts.kills,
        counts.pauses,
        counts.cuts,
        counts.outages,
        counts.restarts,
    ]
    killed = Counter(fault.target for fault in plan if fault.kind is Kind.KILL)
    assert max(killed[name] for name in STAGE.processes) - min(killed[name] for name in STAGE.processes) <= 1
    assert all(1 <= fault.seconds <= 3 for fault in plan if fault.kind is Kind.PAUSE)


def test_another_seed_makes_another_plan() -> None:
    counts = Counts(10, 5, 5, 1, 1)
    assert make_plan(1, counts, STAGE, 100) != make_plan(2, counts, STAGE, 100)


CONFIRMED = Counter(["OrderCreated", "PaymentCompleted", "InventoryReserved", "ShippingPrepared", "OrderConfirmed"])
CANCELLED = Counter(["OrderCreated", "PaymentCompleted", "InventoryRejected", "OrderCancelled", "PaymentRefunded"])
PRICE = Amount("EUR", 5 * 10**9)
LOG = Log("run")


def order(number: int, state: str, reason: str = "UNSPECIFIED", quantity: int = 1) -> orders.Order:
    """Return an order as the service tells it, whose id is `order-{number}`."""
    return orders.Order(
        order_id=f"order-{number}",
        state=orders.OrderState.Value(f"ORDER_STATE_{state}"),
        cancel_reason=orders.CancelReason.Value(f"CANCEL_REASON_{reason}"),
        lines=[orders.OrderLine(sku="mug", quantity=quantity)],
        total=Money(currency_code="EUR", units=5),
        ship_to=PostalAddress(address_lines=["1 Sample Street", LOG.label(number)]),
    )


def sound_books() -> Books:
    """Return what is said of an order that was confirmed, 1, and of one that was out of stock, 2."""
    return Books(
        orders={"order-1": order(1, "CONFIRMED"), "order-2": order(2, "CANCELLED", "OUT_OF_STOCK")},
        payments={"order-1": "COMPLETED", "order-2": "REFUNDED"},
        charges={"order-1": [PRICE], "order-2": [PRICE]},
        refunds={"order-2": [PRICE]},
        history={"order-1": CONFIRMED, "order-2": CANCELLED},
        restocked={"mug": 10},
        stock={"mug": Level(10, 1)},
        shipments={"order-1": "PREPARED", "order-2": "CANCELLED"},
    )


def sound_log() -> Log:
    """Return what customers know of the two orders, and of a request that was refused, 3."""
    return Log(
        "run",
        [
            Request(1, Wish.GOOD, 1.0, 1.1, "order-1", "OK"),
            Request(2, Wish.SOLD_OUT, 2.0, 2.1, "order-2", "OK"),
            Request(3, Wish.GOOD, 3.0, 3.1, code="UNAVAILABLE"),
        ],
    )


def seen(log: Log | None = None, **found: Any) -> Outside:
    """Return what is seen from outside of a system that is well, but for what is `found`."""
    return Outside(log or sound_log(), **{"open_ends": [], "dead_letters": {}, "lame": [], **found})


def judged(books: Books, log: Log | None = None, **found: Any) -> str:
    """Return what is found to be wrong, in one text."""
    outside = seen(log, **found)
    return "\n".join(map(str, judge(outside, books)))


def test_nothing_is_wrong_with_books_that_are_sound() -> None:
    assert judged(sound_books()) == ""


def lose_an_order(books: Books) -> Books:
    return replace(books, orders={"order-2": books.orders["order-2"]}, stock={"mug": Level(10, 0)})


def charge_twice(books: Books) -> Books:
    return replace(books, charges={**books.charges, "order-1": [PRICE, PRICE]})


def charge_without_an_order(books: Books) -> Books:
    return replace(books, charges={**books.charges, "order-9": [PRICE]})


def refund_nothing(books: Books) -> Books:
    return replace(books, refunds={})


def mislay_a_piece(books: Books) -> Books:
    return replace(books, stock={"mug": Level(9, 1)})


def hold_for_nobody(books: Books) -> Books:
    return replace(books, stock={"mug": Level(10, 2)})


def prepare_two_shipments(books: Books) -> Books:
    return replace(books, history={**books.history, "order-1": CONFIRMED + Counter(["ShippingPrepared"])})


def forget_the_shipment(books: Books) -> Books:
    return replace(books, history={**books.history, "order-1": CONFIRMED - Counter(["ShippingPrepared"])})


def leave_an_order_open(books: Books) -> Books:
    return replace(books, orders={**books.orders, "order-1": order(1, "PENDING")}, stock={"mug": Level(10, 0)})


def make_two_orders_of_one_request(books: Books) -> Books:
    twin = order(1, "CONFIRMED")
    twin.order_id = "order-8"
    return replace(books, orders={**books.orders, "order-8": twin})


def confirm_what_was_sold_out(books: Books) -> Books:
    return replace(books, orders={**books.orders, "order-2": order(2, "CONFIRMED")})


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (lose_an_order, "order-1: it was accepted, and is lost"),
        (charge_twice, "order-1: not so: it is charged exactly its total, once"),
        (charge_without_an_order, "order-9: money moved for it"),
        (refund_nothing, "order-2: not so: nothing is kept of its money"),
        (mislay_a_piece, "mug: the stock is Level(on_hand=9, reserved=1)"),
        (hold_for_nobody, "mug: the stock is Level(on_hand=10, reserved=2)"),
        (prepare_two_shipments, "order-1: not so: each event happened once"),
        (forget_the_shipment, "order-1: not so: it went the whole way"),
        (leave_an_order_open, "order-1: not so: it has ended"),
        (make_two_orders_of_one_request, "order-1: one request made 2 orders: order-1, order-8"),
        (confirm_what_was_sold_out, "order-2: it is CONFIRMED, and it was out of stock"),
    ],
)
def test_the_audit_finds_what_is_planted(planted: Callable[[Books], Books], told: str) -> None:
    assert told in judged(planted(sound_books()))


def test_what_is_left_open_is_a_violation() -> None:
    assert "order: 2 dead letters" in judged(sound_books(), dead_letters={"order": 2})
    assert "not quiet: payment: 1 open intents" in judged(sound_books(), open_ends=["payment: 1 open intents"])
    assert "gateway: it did not become ready again" in judged(sound_books(), lame=["gateway"])


def test_what_cannot_be_read_is_a_violation_and_hides_nothing_else() -> None:
    unread = [Violation("orders", "could not be audited: UNAVAILABLE")]
    found = judge(seen(open_ends=["shipping does not tell"], lame=["shipping"], unaudited=unread), None)
    assert [str(one) for one in found] == [
        "orders: could not be audited: UNAVAILABLE",
        "the system: it is not quiet: shipping does not tell",
        "shipping: it did not become ready again",
    ]


async def test_the_audit_of_a_system_that_has_gone_ends_and_says_so(tmp_path: Path) -> None:
    async def nobody() -> str:
        raise Problem("nobody can sign in")

    house = House(DataDirectory.at(tmp_path))
    async with Desk({"order": "127.0.0.1:1"}, nobody) as desk:
        audit = Audit(house, desk, patience=0.1)
        await audit.wait(["order"])
        await audit.look({}, {})
    assert audit.open_ends == ["order does not tell: nobody can sign in"]
    assert audit.books is None
    assert [one.about for one in audit.unaudited] == ["order", "order", "orders, money and stock", "the streams"]
    assert all("could not be audited" in one.what for one in audit.unaudited)


def test_a_process_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    house = house_of(tmp_path, 1)
    assert house.pid("sandbox") == 1
    with pytest.raises(Problem, match="order does not run"):
        house.pid("order")


def house_of(folder: Path, port: int) -> House:
    """Return a system that is nothing but a payment provider."""
    data = DataDirectory.at(folder)
    data.write_run({"processes": [{"name": "sandbox", "pid": 1, "ports": {"http": port}}]})
    return House(data)


def late_books(sent: float, ended: float) -> tuple[Books, Log]:
    """Return what is said of an order that its deadline ended."""
    late = order(3, "CANCELLED", "DEADLINE_EXCEEDED")
    late.update_time.FromNanoseconds(int(ended * 1e9))
    books = sound_books()
    books = replace(
        books,
        orders={**books.orders, "order-3": late},
        history={**books.history, "order-3": Counter(["OrderCreated", "OrderCancelled"])},
        payments={**books.payments, "order-3": "VOIDED"},
    )
    log = sound_log()
    log.requests[2].sent = sent
    return books, log


def test_a_request_that_was_refused_may_have_made_an_order_but_no_two() -> None:
    assert judged(*late_books(100.0, 130.0), disturbed=[Span(99.0, 140.0)]) == ""


@pytest.mark.parametrize(
    ("began", "recovered", "excused"),
    [
        (110.0, 112.0, True),
        (90.0, 100.0 - AFTERMATH + 1, True),
        (50.0, 0.0, True),
        (90.0 - AFTERMATH, 99.0 - AFTERMATH, False),
        (131.0, 140.0, False),
    ],
)
def test_an_order_may_only_time_out_while_something_is_broken_or_soon_after(
    began: float, recovered: float, excused: bool
) -> None:
    incidents = [Incident(Fault(0, Kind.KILL, "payment"), began, began, recovered)]
    told = judged(*late_books(100.0, 130.0), disturbed=disturbances(incidents))
    assert told == ("" if excused else "order-3: it timed out though nothing was broken")


def test_a_fault_that_did_not_come_about_excuses_nothing() -> None:
    assert disturbances([Incident(Fault(0, Kind.KILL, "payment"), failure="its target was not ready")]) == []


def test_a_customer_who_is_told_that_they_are_wrong_is_a_violation() -> None:
    log = sound_log()
    log.requests[2].code = "INVALID_ARGUMENT"
    assert "request 3: it was answered with INVALID_ARGUMENT" in judged(sound_books(), log)


def test_the_same_event_twice_in_a_stream_happened_once() -> None:
    twice = [Event("a", "OrderCreated", "order-1", 1.0)] * 2
    assert history_of([*twice, Event("b", "OrderCreated", "order-1", 2.0)]) == {"order-1": {"OrderCreated": 2}}
    assert not find_violations(sound_books())


def hit(kind: Kind, target: str, began: float, seconds: float = 0.0) -> bool:
    """Tell whether a fault hits one order: sent at 10, accepted at 11, paid at 13, confirmed at 14."""
    times = {"OrderCreated": 10.5, "PaymentCompleted": 13.0, "InventoryReserved": 11.0, "ShippingPrepared": 13.5}
    events = [Event(name, name, "one", time) for name, time in {**times, "OrderConfirmed": 14.0}.items()]
    work = open_work(Log("run", [Request(0, Wish.GOOD, 10.0, 11.0, "one", "OK")]), events, {0: "one"})
    incident = Incident(Fault(0, kind, target, seconds), began, began + seconds)
    return was_open(incident, [target], work)


def test_a_fault_hits_an_order_only_where_and_while_it_has_work() -> None:
    assert hit(Kind.KILL, "payment", 12.0)
    assert hit(Kind.KILL, "sandbox", 12.0)
    assert not hit(Kind.KILL, "payment", 13.5)
    assert not hit(Kind.KILL, "payment", 10.2)
    assert hit(Kind.KILL, "order-2", 13.8)
    assert not hit(Kind.KILL, "order", 14.1)
    assert not hit(Kind.KILL, "inventory", 12.0)
    assert hit(Kind.KILL, "gateway", 10.9)
    assert not hit(Kind.KILL, "gateway", 11.1)
    assert hit(Kind.KILL, "nats-server", 13.9)
    assert hit(Kind.PAUSE, "payment", 9.0, 2.0)
    assert not hit(Kind.PAUSE, "payment", 8.0, 2.0)


ENOUGH = Tally(planned=10, failed=0, spared=[], came=10, hits=5, asked=100, accepted=90, compensated=14)


def test_a_run_proves_something_if_enough_was_hit_and_undone() -> None:
    assert why_unproven(ENOUGH) == ""


@pytest.mark.parametrize(
    ("lack", "told"),
    [
        ({"failed": 1}, "1 of 10 faults did not come about"),
        ({"spared": ["order-2"]}, "never hit by SIGKILL: order-2"),
        ({"hits": 4}, "only 4 of 10 faults hit a process in which an order was open"),
        ({"accepted": 89}, "only 89 of 100 orders were accepted"),
        ({"compensated": 13}, "only 13 of 90 orders were compensated"),
        ({"accepted": 0, "compensated": 0}, "only 0 of 100 orders were accepted"),
    ],
)
def test_a_run_in_which_too_little_happened_proves_nothing(lack: dict[str, Any], told: str) -> None:
    assert why_unproven(ENOUGH._replace(**lack)) == told


def concluded(counts: Counts, incidents: list[Incident], *undone: str) -> Report:
    """Return the report of a run with the two sound orders in which an event happened to each order in `undone`."""
    report = Report({})
    course = Course(2, counts, {"order": ["order"], "payment": ["payment"]}, incidents, sound_log())
    sum_up(report, course, sound_books(), [Event(one, "InventoryReleased", one, 2.0) for one in undone])
    return report


def kill(target: str, failure: str = "") -> Incident:
    """Return a kill that hit an order, or that failed."""
    return Incident(Fault(0, Kind.KILL, target), 0.0 if failure else 1.05, 1.05, 1.1, failure)


def test_a_report_says_why_a_run_proved_nothing() -> None:
    both, one_of_two = [kill("order"), kill("order")], Counts(2, 0, 0, 0, 0)
    assert concluded(one_of_two, both, "order-2").unproven == "never hit by SIGKILL: payment"
    assert concluded(Counts(1, 0, 0, 0, 0), both[:1], "order-2").exit_code == CLEAN
    unready = concluded(Counts(1, 0, 0, 0, 0), [kill("order", "its target was not ready")], "order-2")
    assert unready.unproven == "1 of 1 faults did not come about"
    assert unready.exit_code == UNPROVEN
    assert unready.failed == ["SIGKILL order: its target was not ready"]
    assert concluded(Counts(1, 0, 1, 0, 0), both[:1], "order-2").unproven == "1 of 2 faults did not come about"


def test_an_order_is_compensated_if_something_was_undone_and_not_because_it_is_cancelled() -> None:
    counts, incidents = Counts(1, 0, 0, 0, 0), [kill("order")]
    assert concluded(counts, incidents).unproven == "only 0 of 2 orders were compensated"
    assert concluded(counts, incidents, "order-2", "order-2", "order-9").orders["compensated"] == 1


class NoCustomers:
    """Nobody orders."""

    def burst(self, orders: int) -> list[Request]:
        return []


class Silence:
    """Nobody watches."""

    def begun(self, incident: Incident) -> None:
        """See nothing."""

    def recovered(self, incident: Incident) -> None:
        """See nothing."""


async def test_an_interrupted_outage_of_the_provider_is_lifted_at_once(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    began = asyncio.Event()

    async def outage(request: web.Request) -> web.Response:
        asked.append(await request.json())
        began.set()
        return web.json_response({})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response()

    server = web.Application()
    server.add_routes([web.post("/control/outage", outage), web.get("/healthz", healthz)])
    async with TestServer(server) as provider:
        house = house_of(tmp_path, provider.port or 0)
        plan = [Fault(0, Kind.OUTAGE, "sandbox", 60.0)]
        injector = Injector(house, cast("Customers", NoCustomers()), plan, burst=1, watcher=Silence())
        running = asyncio.create_task(injector.run())
        assert await happens(began, 10)
        running.cancel()
        await injector.heal()
    assert [one["seconds"] for one in asked] == [60.0, 0]


def test_cuts_that_are_asked_for_need_a_system_with_proxies(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["chaos", "--attach", str(tmp_path), "--cuts", "3"])
    assert isinstance(ran.exception, Problem)
    assert "--cuts does not go with --attach" in str(ran.exception)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 40))
def test_what_the_broker_sends_again_is_counted_however_the_bytes_arrive(numbers: list[int], size: int) -> None:
    line = (
        "HMSG commerce.order.v1.OrderCreated.x 7 $JS.ACK.COMMERCE_ORDER.payment-from-order.1.{}.9.1700000000.0 4 9\r\n"
    )
    sent = "".join(line.format(number) for number in numbers).encode()
    deliveries = Deliveries()
    tap = deliveries.tap()
    for start in range(0, len(sent), size):
        tap(sent[start : start + size])
    assert deliveries.count == len(numbers)
    assert deliveries.again == len(numbers) - len(set(numbers))
