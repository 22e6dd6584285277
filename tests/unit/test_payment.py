"""What becomes of a payment."""

import pytest
from google.protobuf.message import Message

from commerce.order.v1.order_events_pb2 import OrderCancelled
from commerce.payment.v1.payment_events_pb2 import PaymentCompleted, PaymentFailed, PaymentRefunded
from commerce.payment.v1.payment_journal_pb2 import PaymentCancelled, PaymentRequested
from services.payment.domain import JOURNAL, PUBLISHED, Payment, State
from tests.unit.flow import state_of
from weft.domain import Money, Refused

AMOUNT = Money("CHF", 25_000_000_000)


def payment(*events: Message) -> Payment:
    return Payment.replay("o1", events)


REQUESTED = PaymentRequested(order_id="o1", amount=AMOUNT.message(), user_id="u1")
CANCELLED = PaymentCancelled(order_id="o1", user_id="u1")
COMPLETED = PaymentCompleted(order_id="o1", amount=AMOUNT.message(), charge_reference="ch_1")
FAILED = PaymentFailed(order_id="o1", reason="card declined")
REFUNDED = PaymentRefunded(order_id="o1", amount=AMOUNT.message(), refund_reference="re_1")

JOURNALS: dict[State, list[list[Message]]] = {
    State.NEW: [[]],
    State.PENDING: [[REQUESTED], [REQUESTED, CANCELLED]],
    State.COMPLETED: [[REQUESTED, COMPLETED]],
    State.FAILED: [[REQUESTED, FAILED], [REQUESTED, CANCELLED, FAILED]],
    State.REFUNDING: [[REQUESTED, COMPLETED, CANCELLED], [REQUESTED, CANCELLED, COMPLETED]],
    State.REFUNDED: [[REQUESTED, COMPLETED, CANCELLED, REFUNDED]],
    State.VOIDED: [[CANCELLED]],
}
EVERY_JOURNAL = [(state, journal) for state, journals in JOURNALS.items() for journal in journals]


def in_states(*states: State) -> list[list[Message]]:
    return [journal for state, journal in EVERY_JOURNAL if state in states]


def others(*states: State) -> list[list[Message]]:
    return [journal for state, journal in EVERY_JOURNAL if state not in states]


@pytest.mark.parametrize(("state", "journal"), EVERY_JOURNAL)
def test_the_state_is_the_replay_of_the_journal(state: State, journal: list[Message]) -> None:
    replayed = payment(*journal)
    assert replayed.state is state
    assert replayed.cancelled == (CANCELLED in journal)
    assert replayed.take_recorded() == []


def test_only_outcomes_are_published() -> None:
    assert (PaymentCompleted, PaymentFailed, PaymentRefunded) == PUBLISHED
    assert (PaymentRequested, PaymentCancelled, *PUBLISHED) == JOURNAL


def test_another_contexts_event_is_no_part_of_a_payment() -> None:
    with pytest.raises(TypeError, match=r"commerce\.order\.v1\.OrderCancelled is not an event of a payment"):
        payment(OrderCancelled(order_id="o1"))


def test_a_placed_order_wants_a_charge() -> None:
    paid = payment()
    assert paid.request(AMOUNT, "u1")
    assert (paid.state, paid.amount) == (State.PENDING, AMOUNT)
    assert paid.take_recorded() == [REQUESTED]


@pytest.mark.parametrize("journal", others(State.NEW))
def test_an_order_is_charged_at_most_once_and_never_after_its_cancel(journal: list[Message]) -> None:
    paid = payment(*journal)
    assert not paid.request(Money("CHF", 1), "u1")
    assert paid.take_recorded() == []


def test_a_charge_completes_the_payment() -> None:
    paid = payment(REQUESTED)
    assert not paid.charged("ch_1")
    assert (paid.state, paid.charge_reference) == (State.COMPLETED, "ch_1")
    assert paid.take_recorded() == [COMPLETED]


def test_a_declined_card_fails_the_payment() -> None:
    paid = payment(REQUESTED)
    paid.declined("card declined")
    assert (paid.state, paid.failure_reason) == (State.FAILED, "card declined")
    assert paid.take_recorded() == [FAILED]


def test_a_cancel_before_the_order_leaves_a_tombstone() -> None:
    paid = payment()
    assert not paid.cancel("u1")
    assert (paid.state, paid.amount) == (State.VOIDED, None)
    assert paid.take_recorded() == [CANCELLED]
    assert not paid.request(AMOUNT, "u1")


def test_a_cancel_of_a_charged_order_wants_a_refund() -> None:
    paid = payment(REQUESTED, COMPLETED)
    assert paid.cancel("u1")
    assert paid.state is State.REFUNDING
    assert paid.take_recorded() == [CANCELLED]


def test_a_cancel_while_the_provider_is_asked_waits_for_its_answer() -> None:
    paid = payment(REQUESTED)
    assert not paid.cancel("u1")
    assert (paid.state, paid.cancelled) == (State.PENDING, True)
    assert paid.take_recorded() == [CANCELLED]


def test_a_charge_that_comes_after_the_cancel_is_recorded_and_wants_a_refund() -> None:
    paid = payment(REQUESTED, CANCELLED)
    assert paid.charged("ch_1")
    assert (paid.state, paid.charge_reference) == (State.REFUNDING, "ch_1")
    assert paid.take_recorded() == [COMPLETED]


def test_a_decline_that_comes_after_the_cancel_ends_it() -> None:
    paid = payment(REQUESTED, CANCELLED)
    paid.declined("card declined")
    assert (paid.state, paid.take_recorded()) == (State.FAILED, [FAILED])


@pytest.mark.parametrize("journal", [*others(State.NEW, State.PENDING, State.COMPLETED), [REQUESTED, CANCELLED]])
def test_a_cancel_changes_nothing_where_nothing_is_to_be_undone(journal: list[Message]) -> None:
    paid = payment(*journal)
    assert not paid.cancel("u1")
    assert paid.take_recorded() == []


def test_a_refund_returns_the_whole_charge() -> None:
    paid = payment(REQUESTED, COMPLETED, CANCELLED)
    paid.refunded("re_1")
    assert (paid.state, paid.refund_reference) == (State.REFUNDED, "re_1")
    assert paid.take_recorded() == [REFUNDED]


@pytest.mark.parametrize("journal", in_states(State.COMPLETED, State.FAILED, State.REFUNDING, State.REFUNDED))
def test_the_first_outcome_of_a_charge_stands(journal: list[Message]) -> None:
    paid = payment(*journal)
    before = state_of(paid)
    assert not paid.charged("ch_2")
    paid.declined("too late")
    assert (state_of(paid), paid.take_recorded()) == (before, [])


def test_the_first_outcome_of_a_refund_stands() -> None:
    paid = payment(REQUESTED, COMPLETED, CANCELLED, REFUNDED)
    paid.refunded("re_2")
    assert (paid.refund_reference, paid.take_recorded()) == ("re_1", [])


@pytest.mark.parametrize("journal", in_states(State.NEW, State.VOIDED))
def test_the_outcome_of_a_charge_that_nobody_wanted_is_refused(journal: list[Message]) -> None:
    paid = payment(*journal)
    with pytest.raises(Refused) as charged:
        paid.charged("ch_1")
    with pytest.raises(Refused) as declined:
        paid.declined("no")
    assert charged.value.reason == declined.value.reason == "CHARGE_NOT_WANTED"
    assert paid.take_recorded() == []


@pytest.mark.parametrize("journal", others(State.REFUNDING, State.REFUNDED))
def test_a_refund_that_nobody_wanted_is_refused(journal: list[Message]) -> None:
    paid = payment(*journal)
    with pytest.raises(Refused) as error:
        paid.refunded("re_1")
    assert error.value.reason == "REFUND_NOT_WANTED"
    assert paid.take_recorded() == []


@pytest.mark.parametrize("journal", [[REQUESTED], [CANCELLED], [REQUESTED, CANCELLED]])
def test_a_payment_knows_whose_order_it_is_from_the_orders_beginning_or_end(journal: list[Message]) -> None:
    assert payment(*journal).user_id == "u1"
