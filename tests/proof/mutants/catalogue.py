"""The planted faults: what each one breaks, where, and the tests that must fail on it, and how.

A fault is one or two small edits, and its old text occurs exactly once: it breaks loudly where the code moves.
"""

from __future__ import annotations

from dataclasses import dataclass

_CHASSIS = "tests/component/chassis"
_COMMIT = 't.connection.exec_driver_sql("COMMIT")\n        t.connection.exec_driver_sql("BEGIN")\n'


@dataclass(frozen=True, slots=True)
class Edit:
    """A text in a file, and what is put in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Catch:
    """A test that fails on a fault."""

    test: str
    """As `file::name`."""
    says: str
    """A part of what it says then: the type of the exception, unless it was a bare `assert`, and its text."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault in the code, and the tests that catch it."""

    name: str
    breaks: str
    """What no longer holds, for people."""
    edits: tuple[Edit, ...]
    caught_by: tuple[Catch, ...]
    """Every one of these fails."""


_ALL = (
    Mutant(
        "publish before commit",
        "an event is committed, and published, though its rows are not saved",
        (
            Edit(
                "weft/work.py",
                "        changed: dict[str, list[_Entry]] = {}\n",
                "        if self._effects.events:\n"
                "            self._sql.insert(self.connection, tables.outbox, self._effects.events)\n"
                "            self._effects.events = []\n"
                '            self.connection.exec_driver_sql("COMMIT")\n'
                '            self.connection.exec_driver_sql("BEGIN")\n'
                "        changed: dict[str, list[_Entry]] = {}\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_faults.py::test_no_event_is_told_of_what_could_not_be_saved",
                "== (0, 0)",
            ),
        ),
    ),
    Mutant(
        "ack before commit",
        "the position is noted, and the broker told, before the effects are saved",
        (
            Edit(
                "weft/consumer.py",
                "            await self._handle(lease, deliveries)\n",
                "            last = deliveries[-1]\n"
                "            await self._pull.acknowledge(last.seq)\n"
                "            noted = _progress.update().values(position=last.seq, event_id=last.event_id)\n"
                "            await self._writer.transact(lambda t: t.connection.execute(\n"
                "                noted.where(_progress.c.consumer == self.name)))\n"
                "            await self._handle(lease, deliveries)\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_crashes.py::test_a_crash_between_commit_and_acknowledgement_has_no_second_effect",
                "a took its 3 tasks",
            ),
        ),
    ),
    Mutant(
        "inbox outside the transaction",
        "an event counts as handled before its effects are saved",
        (
            Edit(
                "weft/consumer.py",
                '        new = t.sql.insert_new(t.connection, tables.inbox, rows, "event_id")\n',
                f'        new = t.sql.insert_new(t.connection, tables.inbox, rows, "event_id")\n        {_COMMIT}',
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_crashes.py::test_a_crash_between_commit_and_acknowledgement_has_no_second_effect",
                "a took its 3 tasks",
            ),
        ),
    ),
    Mutant(
        "inbox key without consumer",
        "an event that one consumer handled is passed over by another",
        (
            Edit(
                "weft/consumer.py",
                '{"consumer": self.name, "event_id": one.event_id} for one in deliveries',
                '{"consumer": "", "event_id": one.event_id} for one in deliveries',
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_inbox.py::test_an_id_that_two_streams_use_stands_for_two_events",
                "AssertionError: not within",
            ),
        ),
    ),
    Mutant(
        "no refund",
        "a cancelled order's charge is kept",
        (
            Edit(
                "services/payment/handlers.py",
                "    if payment.cancel(event.user_id):\n",
                "    if payment.cancel(event.user_id) and False:\n",
            ),
        ),
        (
            Catch(
                "tests/component/test_payment.py::test_a_charged_order_is_refunded_once_however_often_it_is_cancelled",
                "PaymentRefunded of ",
            ),
        ),
    ),
    Mutant(
        "no refund of a late charge",
        "a charge that succeeds after the cancel is kept",
        (
            Edit(
                "services/payment/promises.py",
                "            if payment.charged(reference):\n",
                "            if payment.charged(reference) and False:\n",
            ),
        ),
        (
            Catch(
                "tests/component/test_payment.py::test_a_cancel_while_the_charge_is_on_its_way_gives_the_money_back",
                "PaymentRefunded of ",
            ),
        ),
    ),
    Mutant(
        "tombstone ignored, inventory",
        "an order that was cancelled before inventory heard of it takes stock",
        (
            Edit(
                "services/inventory/handlers.py",
                "        work.add(store.reservations, Reservation.void(event.order_id))\n",
                "        return\n",
            ),
        ),
        (
            Catch(
                "tests/component/test_inventory.py::"
                "test_an_order_that_was_cancelled_before_it_was_heard_of_holds_nothing",
                "== (5, 0, 5)",
            ),
        ),
    ),
    Mutant(
        "tombstone ignored, payment",
        "an order that was cancelled before payment heard of it is charged",
        (
            Edit(
                "services/payment/domain.py",
                "_AFTER_CANCEL = {State.NEW: State.VOIDED, ",
                "_AFTER_CANCEL = {",
            ),
        ),
        (
            Catch(
                "tests/unit/test_payment.py::test_a_cancel_before_the_order_leaves_a_tombstone",
                "<State.NEW: 'NEW'> != <State.VOIDED: 'VOIDED'>",
            ),
            Catch(
                "tests/component/test_payment.py::"
                "test_an_order_that_was_cancelled_before_it_was_heard_of_is_never_charged",
                "api.PAYMENT_STATE_VOIDED",
            ),
        ),
    ),
    Mutant(
        "tombstone ignored, shipping",
        "an order that was cancelled before shipping heard of it is shipped",
        (
            Edit(
                "services/shipping/handlers.py",
                "    _shipment(work, event).order_cancelled(",
                "    if work.get(store.shipments, event.order_id) is None:\n"
                "        return\n"
                "    _shipment(work, event).order_cancelled(",
            ),
        ),
        (
            Catch(
                "tests/component/test_shipping.py::"
                "test_an_order_that_was_cancelled_before_it_was_heard_of_is_never_shipped",
                "DID NOT RAISE",
            ),
        ),
    ),
    Mutant(
        "relay skips on error",
        "an event that the broker did not take counts as published",
        (
            Edit(
                "weft/relay.py",
                "        if len(stored) < len(rows):\n",
                "        if len(stored) < len(rows):\n"
                "            numbers, now = [row[0] for row in rows], micros(self._writer.clock.now())\n"
                "            await self._writer.transact(lambda t: t.sql.mark(\n"
                '                t.connection, _outbox, "seq", numbers, "published_at", now))\n',
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_outbox.py::test_a_stream_that_is_full_holds_events_back_until_there_is_room",
                "AssertionError",
            ),
        ),
    ),
    Mutant(
        "relay above a watermark",
        "an event with a lower number that is committed later is never published",
        (
            Edit(
                "weft/relay.py",
                "_outbox.c.published_at.is_(None)).order_by",
                '_outbox.c.published_at.is_(None), text("seq > (SELECT coalesce(max(seq), 0) FROM outbox '
                'WHERE published_at IS NOT NULL)")).order_by',
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_outbox.py::test_a_lower_number_that_is_committed_later_is_not_skipped",
                "AssertionError: not within",
            ),
        ),
    ),
    Mutant(
        "deadline lost on restart",
        "timers of an earlier life of the process never fire",
        (
            Edit(
                "weft/intents.py",
                "        self._writer = writer\n",
                "        self._writer = writer\n        self._born = micros(writer.clock.now())\n",
            ),
            Edit(
                "weft/intents.py",
                "due = [row for row in rows if self._has_come(row, now) and ",
                "due = [row for row in rows if self._has_come(row, now) "
                "and (row.kind in self._calls or row.created_at >= self._born) and ",
            ),
        ),
        (
            Catch(
                "tests/component/test_order_deadline.py::"
                "test_a_deadline_that_passes_while_the_service_is_down_waits_for_what_was_said_meanwhile",
                "is ORDER_STATE_CANCELLED",
            ),
        ),
    ),
    Mutant(
        "deadline that does not wait for the streams",
        "an order is cancelled though its partners had answered in time",
        (Edit("weft/intents.py", "                await self._caught_up()\n", "                pass\n"),),
        (
            Catch(
                f"{_CHASSIS}/test_intents.py::"
                "test_a_patient_timer_does_not_fire_before_it_is_told_that_the_streams_are_handled",
                "== ['impatient']",
            ),
        ),
    ),
    Mutant(
        "retry with a new idempotency key",
        "a call whose answer was lost is another call to the provider: a second charge",
        (
            Edit(
                "weft/intents.py",
                'f"{row.kind}-{row.key}", orjson',
                'f"{row.kind}-{row.key}-{row.attempts}", orjson',
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_intents.py::"
                "test_a_call_whose_answer_never_came_is_made_again_with_the_same_key_until_it_is_known",
                "('ask-k-0', {'key': 'k'}) != ('ask-k', {'key': 'k'})",
            ),
            Catch(
                "tests/component/test_payment.py::test_an_answer_that_never_came_is_asked_for_again_and_charges_once",
                "PaymentCompleted of ",
            ),
        ),
    ),
    Mutant(
        "unknown outcome guessed",
        "a charge whose answer never came counts as declined: the money is gone",
        (
            Edit(
                "services/payment/promises.py",
                "            return await ask()\n        except ProviderRefused as refusal:\n",
                "            return await ask()\n        except Exception as refusal:\n"
                "            if not isinstance(refusal, ProviderRefused):\n"
                '                return Declined("no_answer")\n',
            ),
        ),
        (
            Catch(
                "tests/component/test_payment.py::test_an_answer_that_never_came_is_asked_for_again_and_charges_once",
                "its events in COMMERCE_PAYMENT: commerce.payment.v1.PaymentFailed",
            ),
        ),
    ),
    Mutant(
        "synchronous=NORMAL",
        "what SQLite committed is lost when the power fails",
        (Edit("weft/database.py", '"synchronous = FULL"', '"synchronous = NORMAL"'),),
        (
            Catch(
                f"{_CHASSIS}/test_database.py::test_sqlite_writes_ahead_and_syncs_every_commit",
                "{'synchronous': 1} != {'synchronous': 2}",
            ),
        ),
    ),
    Mutant(
        "sync_interval default",
        "what the broker acknowledged is lost when the power fails",
        (Edit("weft/embedded.py", '"always" if sync_always else "2m"', '"2m"'),),
        (
            Catch(
                "tests/component/test_embedded.py::test_the_production_configuration_says_the_same_as_the_embedded",
                "KeyError: 'sync_always'",
            ),
        ),
    ),
    Mutant(
        "batch without the lease's epoch",
        "an instance whose lease another one has taken still writes",
        (
            Edit(
                "weft/consumer.py",
                "        lease.check(t)\n        parked = ",
                "        parked = ",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_instances.py::"
                "test_a_holder_whose_lease_was_stolen_between_load_and_commit_writes_nothing",
                "it has noticed",
            ),
        ),
    ),
    Mutant(
        "version not checked",
        "of two changes of one aggregate at the same time one is lost",
        (
            Edit(
                "weft/store.py",
                '                raise Conflict(f"{self.name}: changed by somebody else")\n',
                "                return\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_instances.py::"
                "test_two_instances_that_change_one_aggregate_at_once_both_have_their_effect",
                "== [0, 1, 2]",
            ),
        ),
    ),
    Mutant(
        "success told though the commit failed",
        "a caller is answered with OK, and nothing is saved",
        (
            Edit(
                "weft/writer.py",
                "self._settle([(c.future, Failed(error)) for c in commands], Flushed())",
                "self._settle([(c.future, Done(None)) for c in commands], Flushed())",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_unit_of_work.py::test_a_command_that_cannot_be_saved_costs_only_itself",
                "assert [False, False, False] == [False, True, False]",
            ),
        ),
    ),
    Mutant(
        "failure taken for success",
        "an event whose handler failed is never tried again",
        (
            Edit(
                "weft/consumer.py",
                "error = failure or _error_of(t.work, unit)",
                "error = failure or (_error_of(t.work, unit), None)[1]",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_failures.py::"
                "test_an_event_that_fails_for_a_while_is_tried_again_and_those_behind_it_wait",
                "a took its 4 tasks",
            ),
        ),
    ),
    Mutant(
        "parked event overtaken",
        "an event is handled before an earlier one of its aggregate",
        (Edit("weft/consumer.py", "            if delivery.key in blocked:\n", "            if False:\n"),),
        (
            Catch(
                f"{_CHASSIS}/test_failures.py::test_later_events_of_a_parked_one_wait_though_they_come_later",
                "== {'a/1'}",
            ),
        ),
    ),
    Mutant(
        "dead letter without its message",
        "an event that was set aside cannot be handled later",
        (Edit("weft/letters.py", '        "body": delivery.body,\n', '        "body": b"",\n'),),
        (
            Catch(
                f"{_CHASSIS}/test_failures.py::test_a_message_that_is_no_event_is_a_dead_letter_as_it_came",
                "assert b'' == b",
            ),
        ),
    ),
    Mutant(
        "relay that trusts the broker's memory",
        "what the broker lost after it had acknowledged it is never published again",
        (
            Edit(
                "weft/acknowledged.py",
                "kept = found is not None and found.event_id == event_id\n",
                "kept = True\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_broker_loss.py::"
                "test_what_the_broker_lost_is_published_again_and_has_its_effects_once",
                "the loss is found and told",
            ),
        ),
    ),
    Mutant(
        "consumer that trusts its number",
        "a stream that lost its tail and has grown again is read on, and what is new below that is skipped",
        (
            Edit(
                "weft/consumer.py",
                " or position > last or lost:\n",
                " or position > last:\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_broker_loss.py::"
                "test_a_stream_that_lost_its_tail_and_has_grown_again_is_read_from_its_beginning",
                "a took its 8 tasks",
            ),
        ),
    ),
    Mutant(
        "answer outside the transaction",
        "the effect of a call is saved before the answer that is kept of it, so a repeat may have it again",
        (
            Edit(
                "weft/writer.py",
                "            self._answers.save()\n",
                '            self.connection.exec_driver_sql("COMMIT")\n'
                '            self.connection.exec_driver_sql("BEGIN")\n'
                "            self._answers.save()\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_answers.py::"
                "test_an_answer_that_cannot_be_made_takes_its_effect_back_and_costs_nobody_else_theirs",
                "its effect is taken back",
            ),
            Catch(
                "tests/component/test_order_repeats.py::"
                "test_an_order_whose_answer_was_lost_with_the_process_is_placed_once",
                "{'orders': 2,",
            ),
        ),
    ),
    Mutant(
        "idempotency key without its user",
        "a user who chooses the key of another one's call gets the answer to that",
        (
            Edit(
                "weft/idempotency.py",
                "Place(identity.caller().subject, method, key)",
                'Place("", method, key)',
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_answers.py::test_a_key_counts_for_one_user_and_one_method",
                "== ['1/1', '2/2', '3']",
            ),
        ),
    ),
    Mutant(
        "repeat that is not found in the transaction",
        "calls with one key that are under way at once all have their effect, or fail",
        (
            Edit(
                "weft/writer.py",
                "        if earlier is not None:\n",
                "        if earlier is not None and False:\n",
            ),
        ),
        (
            Catch(
                f"{_CHASSIS}/test_answers.py::"
                "test_of_many_calls_at_once_with_one_key_one_has_an_effect_and_all_the_same_answer",
                "== {'1/1'}",
            ),
        ),
    ),
    Mutant(
        "signature not verified",
        "anybody may act as anybody",
        (
            Edit(
                "weft/tokens.py",
                'options={"require"',
                'options={"verify_signature": False, "require"',
            ),
        ),
        (
            Catch(
                "tests/component/test_identity.py::test_a_forged_token_is_refused",
                "DID NOT RAISE",
            ),
        ),
    ),
)

MUTANTS = {mutant.name: mutant for mutant in _ALL}
"""The planted faults by name."""
