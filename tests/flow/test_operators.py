"""What an operator does by the `weft` command in the whole system: letters, stuck orders, gaps, and who did what."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cli.errors import Problem
from cli.main import app
from tests.flow.test_outsiders import stranger_to
from weft.testing import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flow.shop import Shop

# What they ask is the same whichever way the system runs.
pytestmark = pytest.mark.parametrize("mode", ["processes"], indirect=True)

PATIENCE = 30.0


class Weft:
    """The `weft` command as the admin of a system."""

    def __init__(self, shop: Shop, home: Path) -> None:
        self._options = ["--data", str(shop.system.data)]
        self._environment = {"XDG_STATE_HOME": str(home), "WEFT_GATEWAY": "", "WEFT_TOKEN": ""}

    async def __call__(self, *arguments: str, expect: int = 0) -> str:
        """Run a command, which ends with the exit code `expect`; return what it printed."""
        run = CliRunner(env=self._environment).invoke
        done = await asyncio.to_thread(run, app, [*arguments, *self._options])
        problem = done.exception if isinstance(done.exception, Problem) else None
        assert (problem.exit_code if problem else done.exit_code) == expect, (done.output, done.exception)
        return str(problem) if problem else done.stdout

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "--json"))


@pytest.fixture
def weft(shop: Shop, tmp_path: Path) -> Weft:
    return Weft(shop, tmp_path)


async def test_a_dead_letter_is_looked_at_retried_and_dropped_and_all_of_it_is_written_down(
    shop: Shop, weft: Weft
) -> None:
    async with stranger_to(shop.system) as stranger:
        key = await stranger.publish("commerce.payment.v1.PaymentFailed", b"\x0a\x07nobodys")

    async def dead() -> Any:
        return (await weft.json("dlq", "list", "--order", key, "--type", "PaymentFailed"))["letters"]

    (letter,) = await eventually(dead, PATIENCE, "the event is a dead letter")
    name = letter["letterId"]
    assert (letter["reason"], letter["consumer"]) == ("REFUSED", "order-from-payment")
    assert '"orderId": "nobodys"' in await weft("dlq", "show", name)
    assert (await weft.json("dlq", "list", "--order", key, "--older-than", "1h"))["letters"] == []
    told = await weft("dlq", "retry", "--order", key, "--dry-run")
    assert "retry would take 1 letter; nothing was done" in told

    assert "1 letter handed over again" in await weft("dlq", "retry", name, "--why", "order was slow")

    async def dead_again() -> Any:
        return [one for one in await dead() if one["deathTime"] != letter["deathTime"]]

    (again,) = await eventually(dead_again, PATIENCE, "the event is a dead letter again")
    assert again["eventId"] == letter["eventId"]
    told = await weft("dlq", "drop", "--order", key, "--why", "not ours", expect=2)
    assert told == "drop 1 letter? Nobody can answer here: add --yes, or --dry-run to look"
    assert "1 letter dropped" in await weft("dlq", "drop", "--order", key, "--why", "not ours", "--yes")
    assert "no dead letters" in await weft("dlq", "list", "--order", key)
    assert name in await weft("dlq", "show", name, expect=1)

    done = (await weft.json("audit", "--order", key))["actions"]
    assert [(one["service"], one["action"], one["why"]) for one in done] == [
        ("order", "drop", "not ours"),
        ("order", "retry", "order was slow"),
    ]
    told = await weft("audit", "--service", "order")
    assert re.search(rf"order +{shop.system.admin['email']} +drop ", told), told


async def test_a_stuck_order_is_found_explained_and_cancelled(shop: Shop, weft: Weft) -> None:
    sku = await shop.offer(2)
    with shop.system.paused("inventory"):
        order_id = await shop.order(sku)
        await eventually(lambda: paid(shop, order_id), PATIENCE, "it is paid")
        stuck = (await weft.json("order", "list", "--stuck", "--older-than", "0s"))["orders"]
        assert order_id in [one["orderId"] for one in stuck]
        told = await weft("order", "explain", order_id, expect=1)
        assert re.match(
            r"PENDING for \d+ s: waits for inventory, which does not answer now; the deadline ends it at [\d:]+\n", told
        ), told
        assert re.search(r"OrderCreated +order +[\d:]+ +handled +unknown +handled", told), told
        told = await weft("order", "cancel", order_id, "--as-operator", "--why", "inventory hangs")
        assert "CANCELLED (operator request)" in told
    await weft("order", "cancel", order_id, "--as-operator", "--why", "once more")

    async def undone() -> bool:
        told = await weft("order", "explain", order_id)
        assert told.startswith("CANCELLED (operator request) since ")
        return "nothing is open" in told and "PaymentRefunded" in told and "InventoryReleased" in told

    await eventually(undone, PATIENCE, "everything is undone")
    (done,) = (await weft.json("audit", "--order", order_id))["actions"]
    assert (done["action"], done["why"], done["outcome"]) == (
        "cancel_order",
        "inventory hangs",
        "from PENDING to CANCELLED",
    )


async def paid(shop: Shop, order_id: str) -> bool:
    return await shop.payment_state(order_id) == "COMPLETED"


async def test_a_finished_order_is_explained_and_has_no_gaps(shop: Shop, weft: Weft) -> None:
    order_id = await shop.order(await shop.offer(1))
    await shop.becomes(order_id, "CONFIRMED")

    async def quiet() -> Any:
        found = await weft.json("order", "explain", order_id)
        places = [place for event in found["events"] for place in event["places"].values()]
        return found if "waits for `weft shipment dispatch" in found["verdict"] and len(places) == 7 else None

    found = await eventually(quiet, PATIENCE, "everything is read")
    assert {place for event in found["events"] for place in event["places"].values()} == {"HANDLED"}
    assert (found["intents"], found["letters"], found["away"]) == ([], [], {})
    told = await weft("redeliver", "payment-from-order", "--order", order_id, "--dry-run")
    assert told == "looked at 1 message for payment-from-order; no gap\n"
    told = await weft("outbox", "republish", "--since", "1m", "--dry-run")
    assert re.search(r"^order: looked at \d+ events?; none is missing$", told, re.MULTILINE), told
    assert "there is no read model" in await weft("rebuild", "order", "nothing", expect=1)
