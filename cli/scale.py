"""How many instances of each service there are, as `--scale order=2` says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_INSTANCES = 8
"""Of one service on one machine."""
_SINGLE = {
    "gateway": "it is the one address that clients know; behind a load balancer of your own, run `python -m gateway`",
    "nats-server": "a cluster of brokers needs machines of its own; deploy/nats has the settings",
    "postgres": "its data are in one place",
    "sandbox": "it stands in for an external company",
}


def parse_scale(wishes: Iterable[str], services: Iterable[str]) -> dict[str, int]:
    """Read `SERVICE=COUNT` for some of `services`. Raises `Problem` for anything else."""
    known = tuple(services)
    scale: dict[str, int] = {}
    for wish in wishes:
        name, _, count = wish.partition("=")
        _check_service(name, known, wish)
        if name in scale:
            raise Problem(f"--scale names {name} twice.")
        if not count.isascii() or not count.isdecimal() or not 1 <= int(count) <= MOST_INSTANCES:
            raise Problem(f"--scale {wish}: the number of instances is 1 to {MOST_INSTANCES}, as in --scale {name}=2.")
        scale[name] = int(count)
    return scale


def _check_service(name: str, known: tuple[str, ...], wish: str) -> None:
    if reason := _SINGLE.get(name):
        raise Problem(f"there is one {name}: {reason}.")
    if name not in known:
        raise Problem(f"--scale {wish}: there is no service '{name}'; there are {', '.join(known)}.")


def instances(service: str, scale: Mapping[str, int]) -> list[str]:
    """Return the names of a service's processes: `order`, `order-2`, and so on."""
    return [service, *(f"{service}-{number}" for number in range(2, scale.get(service, 1) + 1))]
