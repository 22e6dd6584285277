"""What an operator sees and does in one service: `weftapi.v1.OperationsService`, which every service hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft import actions, backlog, pages
from weft.actions import actor
from weft.domain import InvalidInput, Violation, check_id, text_violations
from weft.inspection import MOST_EVENTS, inspect_aggregate
from weft.letter_messages import at, chosen_of, letter_of, wanted_of, whole_letter_of
from weft.letter_queries import find_page, part_kinds, position_kinds, position_of
from weft.progress import progress_of
from weftapi.v1 import operations_service_pb2 as api
from weftapi.v1.operations_service_pb2_grpc import OperationsServiceServicer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Row

    from weft.clock import Clock
    from weft.consumer import Consumer
    from weft.letter_box import LetterBox
    from weft.pages import Listing, Position
    from weft.read_models import ReadModels
    from weft.recovery import Recovery
    from weft.writer import Reader

SERVICE = "weftapi.v1.OperationsService"
"""Its full name."""

_LONGEST_WHY = 1000
_LONGEST_NAME = 300


class OperationsApi(OperationsServiceServicer):
    """The operations of the service `name`."""

    def __init__(
        self,
        name: str,
        letters: LetterBox,
        recovery: Recovery,
        read_models: ReadModels,
        reader: Reader,
        clock: Clock,
        consumers: Callable[[], Sequence[Consumer]],
        standing: Collection[str],
    ) -> None:
        """`consumers` returns those that the service has now; `standing` are the kinds of intents that are always
        there."""
        self._name = name
        self._letters = letters
        self._recovery = recovery
        self._read_models = read_models
        self._reader = reader
        self._clock = clock
        self._consumers = consumers
        self._standing = standing

    async def GetBacklog(self, request: api.GetBacklogRequest, context: Any) -> api.GetBacklogResponse:
        self._check(request)
        found = await self._reader.run(backlog.count_backlog, self._standing)
        last_event_seq = await self._reader.run(backlog.last_event_seq)
        return api.GetBacklogResponse(
            unpublished_events=_pending(found.unpublished),
            open_intents=_pending(found.intents),
            parked_events=_pending(found.parked),
            dead_letters=_pending(found.dead),
            consumers=await progress_of(self._reader, self._consumers()),
            last_event_seq=last_event_seq,
        )

    async def ListLetters(self, request: api.ListLettersRequest, context: Any) -> api.ListLettersResponse:
        self._check(request)
        wanted = wanted_of(request.filter, self._clock.now())
        listing = await self._list_for(request)
        after = listing.position(*position_kinds(wanted.parked))
        rows = await self._reader.run(find_page, wanted, listing.size + 1, after)
        page, token = listing.cut(rows, position_of)
        return api.ListLettersResponse(letters=map(letter_of, page), next_page_token=token)

    async def GetLetter(self, request: api.GetLetterRequest, context: Any) -> api.GetLetterResponse:
        self._check(request, text_violations("letter_id", request.letter_id, _LONGEST_NAME))
        return api.GetLetterResponse(letter=whole_letter_of(await self._letters.show(request.letter_id)))

    async def RetryLetters(self, request: api.RetryLettersRequest, context: Any) -> api.RetryLettersResponse:
        self._check(request, _why_violations(request.why))
        wanted = chosen_of(request, self._clock.now())
        listing = await self._list_for(request)
        after = listing.position(*part_kinds(wanted))
        found, following = await self._letters.retry(wanted, after, actor(), request.why, dry_run=request.dry_run)
        return api.RetryLettersResponse(letters=map(letter_of, found), next_page_token=_token(listing, following))

    async def DropLetters(self, request: api.DropLettersRequest, context: Any) -> api.DropLettersResponse:
        self._check(request, _why_violations(request.why, required=not request.dry_run))
        wanted = chosen_of(request, self._clock.now())
        if wanted.parked:
            raise InvalidInput(Violation("filter.kind", "must be LETTER_KIND_DEAD: parked events cannot be dropped"))
        listing = await self._list_for(request)
        after = listing.position(*part_kinds(wanted))
        found, following = await self._letters.drop(wanted, after, actor(), request.why, dry_run=request.dry_run)
        return api.DropLettersResponse(letters=map(letter_of, found), next_page_token=_token(listing, following))

    async def Redeliver(self, request: api.RedeliverRequest, context: Any) -> api.RedeliverResponse:
        self._check(request, _why_violations(request.why))
        return await self._recovery.redeliver(request, actor())

    async def Republish(self, request: api.RepublishRequest, context: Any) -> api.RepublishResponse:
        self._check(request, _why_violations(request.why))
        return await self._recovery.republish(request, actor())

    async def Rebuild(self, request: api.RebuildRequest, context: Any) -> api.RebuildResponse:
        wrong = text_violations("read_model", request.read_model, _LONGEST_NAME)
        self._check(request, [*wrong, *_why_violations(request.why)])
        return api.RebuildResponse(read_model=await self._read_models.rebuild(request, actor()))

    async def ListReadModels(self, request: api.ListReadModelsRequest, context: Any) -> api.ListReadModelsResponse:
        self._check(request)
        return api.ListReadModelsResponse(read_models=await self._read_models.list())

    async def InspectAggregate(
        self, request: api.InspectAggregateRequest, context: Any
    ) -> api.InspectAggregateResponse:
        self._check(request, _event_violations(request.events))
        listeners: dict[str, list[str]] = {}
        for one in self._consumers():
            for type_name in one.subscriptions:
                listeners.setdefault(type_name, []).append(one.name)
        aggregate_id = check_id("aggregate_id", request.aggregate_id)
        return await self._reader.run(inspect_aggregate, aggregate_id, request.events, listeners)

    async def ListActions(self, request: api.ListActionsRequest, context: Any) -> api.ListActionsResponse:
        self._check(request, text_violations("target", request.target, _LONGEST_NAME))
        listing = await self._list_for(request)
        position = listing.position(int)
        before = int(position[0]) if position else None
        rows = await self._reader.run(actions.list_actions, listing.size + 1, before, request.target)
        page, token = listing.cut(rows, lambda row: (row.id,))
        return api.ListActionsResponse(actions=map(_action_of, page), next_page_token=token)

    async def _list_for(self, request: Any) -> Listing:
        return await self._reader.look_up(pages.listing, pages.PageRequest.of(request))

    def _check(self, request: Any, wrong: Sequence[Violation] = ()) -> None:
        """Raise `InvalidInput` for what is wrong, and for a request that is another service's."""
        if request.service != self._name:
            wrong = (Violation("service", f"must be {self._name}: that is who answers here"), *wrong)
        if wrong:
            raise InvalidInput(*wrong)


def _token(listing: Listing, position: Position | None) -> str:
    return "" if position is None else listing.token_of(*position)


def _why_violations(why: str, *, required: bool = False) -> Sequence[Violation]:
    if required and not why.strip():
        return [Violation("why", "is required: it is written down")]
    return text_violations("why", why, _LONGEST_WHY)


def _event_violations(events: Sequence[api.FoundEvent]) -> Sequence[Violation]:
    if len(events) > MOST_EVENTS:
        return [Violation("events", f"must be at most {MOST_EVENTS}")]
    return [
        wrong for n, one in enumerate(events) for wrong in text_violations(f"events[{n}].event_id", one.event_id, 128)
    ]


def _pending(pending: backlog.Pending) -> api.Pending:
    return api.Pending(count=pending.count, oldest_time=None if pending.oldest is None else at(pending.oldest))


def _action_of(row: Row[Any]) -> api.Action:
    return api.Action(
        action_id=row.id,
        time=at(row.at),
        actor=row.actor,
        action=row.action,
        target=row.target,
        why=row.why,
        outcome=row.outcome,
    )
