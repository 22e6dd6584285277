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
    from collections.abc import Sequence

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
            letters = await _change_named(gateway, "retry", choice.by_service(), dry_run=dry_run, why=why)
            shown = False
        else:
            found = await _choose(gateway, choice)
            if dry_run or not found or not _agreed("retry", found, yes=yes, quiet=target.json):
                return _report(target, "retry", found, dry_run=dry_run, done=False)
            shown = not yes
            body = {"filter": MessageToDict(choice.filter.message()), "why": why}
            letters = [one for service in choice.filter.services() for one in await _retry_all(gateway, service, body)]
    return _report(target, "retry", letters, dry_run=dry_run, done=not dry_run, shown=shown)


async def drop(target: Target, choice: Choice, *, dry_run: bool, why: str, yes: bool) -> int:
    """Forget dead letters, after a yes, and print which; return 1 if nothing was done for want of one."""
    if choice.filter.parked:
        raise Problem("parked events cannot be dropped: they are tried again by themselves")
    async with reach(target) as gateway:
        if choice.letter_ids:
            found = await _change_named(gateway, "drop", choice.by_service(), dry_run=True, why=why)
        else:
            found = await _choose(gateway, choice)
        if dry_run or not found or not _agreed("drop", found, yes=yes, quiet=target.json):
            return _report(target, "drop", found, dry_run=dry_run, done=False)
        # What was shown is dropped, and nothing that died since.
        ids = Choice([letter.letter_id for letter in found], Filter()).by_service()
        letters = await _change_named(gateway, "drop", ids, dry_run=False, why=why)
    return _report(target, "drop", letters, dry_run=dry_run, done=True, shown=not yes)


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


async def _change_named(
    gateway: Gateway, verb: str, by_service: dict[str, list[str]], *, dry_run: bool, why: str
) -> list[pb.Letter]:
    letters: list[pb.Letter] = []
    for service, ids in by_service.items():
        left = ids
        while left:
            body: Answer = {"letterIds": left[:_AT_ONCE], "dryRun": dry_run, "why": why}
            done = (await _change(gateway, service, verb, body)).letters
            letters += done
            gone = {letter.letter_id for letter in done}
            # What somebody else took meanwhile is not among what was done.
            left = [one for one in left if one not in gone] if done and len(done) < len(left) else []
    return letters


async def _retry_all(gateway: Gateway, service: str, body: Answer) -> list[pb.Letter]:
    letters: dict[str, pb.Letter] = {}
    while True:
        answer = await _change(gateway, service, "retry", body)
        new = {letter.letter_id: letter for letter in answer.letters if letter.letter_id not in letters}
        letters |= new
        if not answer.more or not new:
            return list(letters.values())


async def _change(gateway: Gateway, service: str, verb: str, body: Answer) -> pb.RetryLettersResponse:
    answer = await gateway.post(path_of(service, "/letters:" + verb), body, patience=WORK)
    return read(answer, pb.RetryLettersResponse())


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
