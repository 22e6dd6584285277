"""What `weft up` is asked for, and the system that comes of it in a folder that may have had another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.credentials import make_accounts
from cli.errors import Problem
from cli.ports import is_free, why_not
from cli.system import GATEWAY, POSTGRES, SERVICES, Design, System, ports_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cli.data import DataDirectory

GATEWAY_PORT = 8080
"""Where the gateway is unless it is told otherwise, or somebody else is there."""
_GATEWAY = (GATEWAY, "http")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user of `weft up` asked for."""

    data: Path
    one_process: bool = False
    demo: bool = False
    gateway_port: int | None = None
    postgres: bool = False
    scale: Sequence[str] = ()
    """As it was typed: `order=2`."""
    log_level: str = "info"
    log_format: str = "auto"


@dataclass(slots=True)
class Plan:
    """The system that is to run, and what to tell its user about it."""

    system: System
    notes: list[str] = field(default_factory=list)


def make_plan(wishes: Wishes, scale: Mapping[str, int], data: DataDirectory, kind: type[System]) -> Plan:
    """Lay out a system in a folder that is held, with what it keeps from former runs and what is wished now.

    Raises `Problem` if the wishes contradict each other or what is there.
    """
    notes: list[str] = []
    accounts = data.accounts_file if _uses_postgres(wishes, data, notes) else None
    _check_scale(wishes, scale, accounts)
    passwords = make_accounts(accounts, SERVICES) if accounts else {}
    former = ports_of(data.read_former_run())
    gateway_port = _choose_gateway_port(wishes.gateway_port, former.get(_GATEWAY, 0))
    wanted = {key: port for key, port in former.items() if port != gateway_port} | {_GATEWAY: gateway_port}
    design = Design(accounts, scale, wishes.log_level, wishes.log_format)
    system = kind.on_free_ports(data.path, wanted, design, passwords)
    if wishes.gateway_port is None and (port := system.ports[_GATEWAY]) != GATEWAY_PORT:
        notes.append(f"port {GATEWAY_PORT} is taken, so the gateway is on {port}; --gateway-port chooses another")
    return Plan(system, notes)


def _uses_postgres(wishes: Wishes, data: DataDirectory, notes: list[str]) -> bool:
    """Tell where the data are, which the first start decided. Raises `Problem` if that is not what is wanted."""
    if data.accounts_file.exists() or (data.path / POSTGRES / "data").exists():
        if not wishes.postgres:
            notes.append(f"the data in {data.path} are in PostgreSQL since the first start with --postgres")
        return True
    there = next((file for file in (data.path / f"{name}.db" for name in SERVICES) if file.exists()), None)
    if wishes.postgres and there is not None:
        raise Problem(
            f"the data in {data.path} are in SQLite ({there.name} and others), and PostgreSQL would begin without "
            "them: leave --postgres out, or choose another --data."
        )
    return wishes.postgres


def _check_scale(wishes: Wishes, scale: Mapping[str, int], accounts: Path | None) -> None:
    several = [f"--scale {name}={count}" for name, count in scale.items() if count > 1]
    if several and wishes.one_process:
        raise Problem(f"{several[0]} and --one-process contradict each other: leave one of them out.")
    if several and accounts is None:
        raise Problem(f"{several[0]} needs PostgreSQL, since an SQLite file is for one process: add --postgres.")


def _choose_gateway_port(asked: int | None, former: int) -> int:
    """Return the port that the gateway should have, if that is free. Raises `Problem` if the one asked for is not."""
    if not asked:
        return GATEWAY_PORT if asked is None and is_free(GATEWAY_PORT) else former
    if reason := why_not(asked):
        raise Problem(f"the gateway cannot listen on port {asked} ({reason}): choose another --gateway-port.")
    return asked
