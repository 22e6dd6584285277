"""`weft dlq retry` and `drop`: has letters handled again, and forgets dead ones; asks first."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from google.protobuf.json_format import MessageToDict

from cli.display import count, print_json
from cli.errors import REFUSED, Problem
from cli.fleet import WORK, ask, path_of, service_of
from cli.letters import Filter, list_in, oldest_first, print_letters
from cli.remote import reach
from cli.rest import read
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cli.remote import Gateway, Target
    from cli.rest import Answer

_AT_ONCE = 1000
_SHOWN = 20
_EVERYTHING = 1_000_000
_DONE = {
    "retry": "handed over again; `weft dlq list --parked` shows what is not handled yet",
    "drop": "dropped",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The letters that a command is to change: by their ids, or by a filter, or `everything`."""

    letter_ids: Sequence[str]
    filter: Filter
    everything: bool = False

    def __post_init__(self) -> None:
        """Raise `Problem` unless it is one of the three."""
        if self.letter_ids and (self.filter.is_set or self.everything):
            raise Problem("name letters, or say which by options; not both")
        if not (self.letter_ids or self.filter.is_set or self.everything):
            raise Problem("say which letters: by their ids, by options as in --type OrderCreated, or --all")

    def by_service(self) -> dict[str, list[str]]:
        """Return the ids that were named, by service."""
        ids: dict[str, list[str]] = {}
        for letter_id in dict.fromkeys(self.letter_ids):
            ids.setdefault(service_of(letter_id), []).append(letter_id)
        return ids


async def retry(target: Target, choice: Choice, *, dry_run: bool, why: str, yes: bool) -> int:
    """Have letters handled again, and print which; return 1 if nothing was done for want of a yes."""
    async with reach(target) as gateway:
        if choice.letter_ids:
            bodies = _bodies(choice.by_service(), dry_run=dry_run, why=why)
            return await _change(gateway, target, "retry", bodies, dry_run=dry_run, shown=False)
        found = await _choose(gateway, choice)
        if dry_run or not found or not _agreed("retry", found, yes=yes, quiet=target.json):
            return _report(target, "retry", found, dry_run=dry_run, done=False)
        body: Answer = {"filter": MessageToDict(choice.filter.message()), "why": why}
        bodies = [(service, body) for service in choice.filter.services()]
        return await _change(gateway, target, "retry", bodies, dry_run=False, shown=not yes)


async def drop(target: Target, choice: Choice, *, dry_run: bool, why: str, yes: bool) -> int:
    """Forget dead letters, after a yes, and print which; return 1 if nothing was done for want of one."""
    if choice.filter.parked:
        raise Problem("parked events cannot be dropped: they are tried again by themselves")
    async with reach(target) as gateway:
        if choice.letter_ids:
            found = await _take_all(gateway, "drop", _bodies(choice.by_service(), dry_run=True, why=why), [])
        else:
            found = await _choose(gateway, choice)
        if dry_run or not found or not _agreed("drop", found, yes=yes, quiet=target.json):
            return _report(target, "drop", found, dry_run=dry_run, done=False)
        # What was shown is dropped, and nothing that died since.
        ids = Choice([letter.letter_id for letter in found], Filter()).by_service()
        return await _change(
            gateway, target, "drop", _bodies(ids, dry_run=False, why=why), dry_run=False, shown=not yes
        )


async def _choose(gateway: Gateway, choice: Choice) -> list[pb.Letter]:
    """Return the letters that a filter means. Raises `Problem` if a service is away."""
    wanted = choice.filter
    answers = await ask(wanted.services(), lambda service: list_in(gateway, service, wanted, _EVERYTHING))
    if answers.away:
        away = "; ".join(f"{service}: {why}" for service, why in answers.away.items())
        raise Problem(
            f"nothing was done, as not all letters are known ({away}); --service leaves services out", REFUSED
        )
    return oldest_first(answers.found.values())


def _bodies(by_service: Mapping[str, Sequence[str]], *, dry_run: bool, why: str) -> list[tuple[str, Answer]]:
    """Return whom to ask for the change of letters that are named, and what."""
    return [
        (service, {"letterIds": ids[first : first + _AT_ONCE], "dryRun": dry_run, "why": why})
        for service, ids in by_service.items()
        for first in range(0, len(ids), _AT_ONCE)
    ]


async def _change(
    gateway: Gateway,
    target: Target,
    verb: str,
    bodies: Sequence[tuple[str, Answer]],
    *,
    dry_run: bool,
    shown: bool,
) -> int:
    """Change letters and print which; where a later part is refused, what the parts before it did is printed first."""
    letters: list[pb.Letter] = []
    try:
        await _take_all(gateway, verb, bodies, letters)
    except Problem:
        if letters:
            _report(target, verb, letters, dry_run=dry_run, done=not dry_run, shown=False)
        raise
    return _report(target, verb, letters, dry_run=dry_run, done=not dry_run, shown=shown)


async def _take_all(
    gateway: Gateway, verb: str, bodies: Sequence[tuple[str, Answer]], taken: list[pb.Letter]
) -> list[pb.Letter]:
    """Ask for each change, part by part; add to `taken` what each part took, and return it."""
    for service, body in bodies:
        page: Answer = {}
        while True:
            answer = await gateway.post(path_of(service, "/letters:" + verb), {**body, **page}, patience=WORK)
            part = read(answer, pb.RetryLettersResponse())
            taken += part.letters
            if not part.next_page_token:
                break
            page = {"pageToken": part.next_page_token}
    return taken


def _agreed(verb: str, letters: Sequence[pb.Letter], *, yes: bool, quiet: bool) -> bool:
    """Ask whether to go on. Raises `Problem` where nobody can answer."""
    if yes:
        return True
    if quiet or not sys.stdin.isatty():
        raise Problem(
            f"{verb} {count(len(letters), 'letter')}? Nobody can answer here: add --yes, or --dry-run to look"
        )
    _show(letters)
    return typer.confirm(f"{verb} {count(len(letters), 'letter')}?")


def _report(
    target: Target, verb: str, letters: Sequence[pb.Letter], *, dry_run: bool, done: bool, shown: bool = False
) -> int:
    """Print what was done, or would be; return the exit code. What was `shown` to be agreed to is not shown again."""
    if target.json:
        print_json({"letters": list(map(MessageToDict, letters)), "dryRun": dry_run})
    elif not letters:
        print("no letter matches: nothing to do")
    elif not (done or dry_run):
        print("nothing was done")
    else:
        if not shown:
            _show(letters)
        number = count(len(letters), "letter")
        print(f"{verb} would take {number}; nothing was done" if dry_run else f"{number} {_DONE[verb]}")
    return 0 if done or dry_run or not letters else REFUSED


def _show(letters: Sequence[pb.Letter]) -> None:
    print_letters(letters[:_SHOWN])
    if len(letters) > _SHOWN:
        print(f"and {count(len(letters) - _SHOWN, 'letter')} more")
