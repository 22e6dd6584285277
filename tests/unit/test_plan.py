"""What `weft up` runs for what it is asked, and what it refuses."""

from __future__ import annotations

import json
import socket
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from cli.data import DataDirectory
from cli.errors import Problem
from cli.plan import GATEWAY_PORT, Wishes, make_plan
from cli.ports import is_free
from cli.probes import LOOPBACK
from cli.scale import parse_scale
from cli.system import GATEWAY, SERVICES, System

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cli.child import Child
    from cli.plan import Plan


def plan(folder: Path, *scale: str, **wishes: Any) -> Plan:
    asked = Wishes(folder, scale=scale, **{"gateway_port": 0} | wishes)
    return make_plan(asked, parse_scale(scale, SERVICES), DataDirectory.at(folder), System)


def children(plan: Plan, *, one_process: bool = False) -> dict[str, Child]:
    return {child.name: child for child in plan.system.processes(one_process=one_process)}


def address(plan: Plan, name: str, port: str = "grpc") -> str:
    return f"{LOOPBACK}:{plan.system.ports[name, port]}"


def test_there_is_a_process_for_each_part_and_the_gateway_comes_last(tmp_path: Path) -> None:
    found = children(plan(tmp_path))
    assert list(found) == ["nats-server", "sandbox", *SERVICES, "gateway"]
    layers = [found[name].layer for name in ("nats-server", "sandbox", "user", "gateway")]
    assert layers == sorted(set(layers))
    assert all(found[name].layer == found["user"].layer for name in SERVICES)


def test_one_process_is_named_by_every_part_that_it_hosts(tmp_path: Path) -> None:
    found = children(plan(tmp_path), one_process=True)
    assert list(found) == ["nats-server", "sandbox", "services"]
    assert tuple(part.name for part in found["services"].parts) == (*SERVICES, "gateway")
    assert len(found["services"].probes) == len(SERVICES) + 1


def test_services_know_where_the_others_are(tmp_path: Path) -> None:
    system = plan(tmp_path)
    env = children(system)["order"].env
    assert env["WEFT_PRODUCT_ADDRESS"] == address(system, "product")
    assert env["WEFT_USER_ADDRESS"] == address(system, "user")
    assert env["WEFT_JWKS_URL"] == f"http://{address(system, 'user', 'ops')}/.well-known/jwks.json"
    assert children(system)["user"].env["WEFT_ADMIN_FILE"] == str(tmp_path / "admin.json")


def test_the_gateway_has_every_service_of_the_contract_behind_it(tmp_path: Path) -> None:
    system = plan(tmp_path)
    env = children(system)["gateway"].env
    behind = dict(one.split("=") for one in env["WEFT_GATEWAY_BACKENDS"].split())
    own = {f"commerce.{name}.v1.{name.title()}Service": address(system, name) for name in SERVICES}
    assert behind == own | {f"weftapi.v1.OperationsService/{name}": address(system, name) for name in SERVICES}
    assert system.system.gateway_url == f"http://{LOOPBACK}:{env['WEFT_GATEWAY_PORT']}"


def test_instances_have_names_ports_and_one_database_and_clients_know_them_all(tmp_path: Path) -> None:
    system = plan(tmp_path, "order=2", "product=3", postgres=True)
    found = children(system)
    several = [name for name in found if name.startswith(("order", "product"))]
    assert several == ["product", "product-2", "product-3", "order", "order-2"]
    assert [found[name].env["WEFT_INSTANCE"] for name in ("order", "order-2")] == ["order-1", "order-2"]
    assert found["order"].env["WEFT_DATABASE_URL"] == found["order-2"].env["WEFT_DATABASE_URL"]
    assert address(system, "order") != address(system, "order-2")
    both = f"ipv4:{address(system, 'order')},{address(system, 'order-2')}"
    assert f"commerce.order.v1.OrderService={both}" in found["gateway"].env["WEFT_GATEWAY_BACKENDS"].split()
    assert found["order"].env["WEFT_PRODUCT_ADDRESS"].count(",") == 2


@pytest.mark.parametrize("one_process", [False, True])
def test_each_service_has_a_database_and_a_password_of_its_own(tmp_path: Path, one_process: bool) -> None:
    system = plan(tmp_path, postgres=True)
    found = children(system, one_process=one_process)
    urls = [
        found["services"].env[f"WEFT_{name.upper()}_DATABASE_URL"]
        if one_process
        else found[name].env["WEFT_DATABASE_URL"]
        for name in SERVICES
    ]
    passwords = json.loads((tmp_path / "postgres.json").read_text())
    at = address(system, "postgres", "client")
    assert urls == [f"postgresql+psycopg://{name}:{passwords[name]}@{at}/{name}" for name in SERVICES]
    assert len(set(passwords.values())) == len(SERVICES)
    assert stat.S_IMODE((tmp_path / "postgres.json").stat().st_mode) == 0o600
    assert not set(passwords.values()) & set(" ".join(found["postgres"].argv).split())
    assert all(password not in repr(system) for password in passwords.values())


def test_a_folder_that_began_with_postgres_goes_on_with_it_and_its_passwords(tmp_path: Path) -> None:
    before = plan(tmp_path, postgres=True).system.passwords
    again = plan(tmp_path)
    assert again.system.passwords == before
    assert "are in PostgreSQL since the first start" in again.notes[0]
    assert "postgres" in children(again)


def test_a_service_that_is_new_to_a_folder_gets_a_password_and_the_others_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "postgres.json").write_text('{"order": "kept"}')
    passwords = plan(tmp_path, postgres=True).system.passwords
    assert passwords["order"] == "kept"
    assert {*passwords} == {*SERVICES}


def test_a_folder_that_began_with_sqlite_does_not_begin_anew_with_postgres(tmp_path: Path) -> None:
    (tmp_path / "order.db").touch()
    with pytest.raises(Problem, match=r"are in SQLite \(order.db and others\).*choose another --data"):
        plan(tmp_path, postgres=True)
    assert plan(tmp_path).system.design.accounts is None
    assert not (tmp_path / "postgres.json").exists()


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        (["nobody=2"], "there is no service 'nobody'; there are user, product, order"),
        (["order"], "1 to 8, as in --scale order=2"),
        (["order=0"], "1 to 8"),
        (["order=-1"], "1 to 8"),
        (["order=9"], "1 to 8"),
        (["order=two"], "1 to 8"),
        (["order=\u0662"], "1 to 8"),
        (["order=2", "order=3"], "names order twice"),
        (["gateway=2"], "there is one gateway: it is the one address that clients know"),
        (["postgres=2"], "there is one postgres"),
    ],
)
def test_a_scale_that_makes_no_sense_says_what_would(wishes: list[str], why: str) -> None:
    with pytest.raises(Problem, match=why):
        parse_scale(wishes, SERVICES)


def test_instances_need_postgres_and_processes(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"--scale order=2 needs PostgreSQL.*add --postgres"):
        plan(tmp_path, "order=2")
    with pytest.raises(Problem, match="--one-process contradict each other"):
        plan(tmp_path, "order=2", postgres=True, one_process=True)
    assert plan(tmp_path, "order=1", one_process=True)


def test_the_usual_port_of_the_gateway_is_left_to_whoever_has_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        if is_free(GATEWAY_PORT):
            assert plan(tmp_path, gateway_port=None).notes == []
            stack.enter_context(socket.create_server((LOOPBACK, GATEWAY_PORT)))
        elsewhere = plan(tmp_path, gateway_port=None)
    port = elsewhere.system.ports[GATEWAY, "http"]
    assert port != GATEWAY_PORT
    assert elsewhere.notes == [
        f"port {GATEWAY_PORT} is taken, so the gateway is on {port}; --gateway-port chooses another"
    ]


def test_the_ports_of_the_former_run_are_kept(tmp_path: Path) -> None:
    def described(ports: Mapping[tuple[str, str], int]) -> dict[str, Any]:
        return {"processes": [{"name": name, "ports": {port: number}} for (name, port), number in ports.items()]}

    before = plan(tmp_path).system.ports
    DataDirectory.at(tmp_path).write_run(described(before))
    assert plan(tmp_path).system.ports == before
