"""What the benchmark makes of what it measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf import json_format

from bench.__main__ import main
from bench.bare import _order
from bench.calls import RPCS
from bench.edge import _figures
from bench.gateway import _figures as _figures_of_gateway
from bench.generated import Generated
from bench.markdown import has_place, write_run
from bench.report import Figure, Report, Section, Target

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "# Benchmarks\n\nHow.\n\n## A run\n\nThe one before.\n"


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    spent = [(200e-6, 400e-6), (300e-6, 500e-6), (300e-6, 400e-6)]
    rounds = [
        {"bare": {"bare": bare}, "gRPC": {"inventory": served}, "REST": {"gateway": 300e-6, "service": served}}
        for bare, served in spent
    ]
    figures = {figure.what: figure for figure in _figures("GetStock", rounds)}
    assert figures["GetStock, gRPC through the chassis: of bare"].value == pytest.approx(60)
    assert figures["GetStock, gRPC through the chassis: of bare"].met
    assert figures["GetStock, gRPC through the chassis"].value == pytest.approx(2500)
    assert figures["GetStock, REST: gateway and service"].value == pytest.approx(1e6 / 700)


def test_the_gateway_is_compared_within_each_round() -> None:
    spent = [(100e-6, 150e-6, 50e-6), (200e-6, 420e-6, 60e-6), (100e-6, 190e-6, 50e-6)]
    rounds = [{"bare proxy": {"bare proxy": a}, "gateway": {"gateway": b}, "Envoy": {"Envoy": c}} for a, b, c in spent]
    figures = {figure.what: figure for figure in _figures_of_gateway("GetOrder", rounds, "")}
    assert figures["GetOrder, gateway"].value == pytest.approx(190)
    assert figures["GetOrder, gateway: times the bare proxy"].value == pytest.approx(1.9)
    assert figures["GetOrder, gateway: times the bare proxy"].met
    assert figures["GetOrder, gateway: times Envoy"].value == pytest.approx(3.8)


def test_without_envoy_its_row_says_why() -> None:
    rounds = [{"bare proxy": {"bare proxy": 1e-4}, "gateway": {"gateway": 2e-4}}]
    *_, last = _figures_of_gateway("GetOrder", rounds, "no such package")
    assert (last.what, last.note) == ("GetOrder, Envoy", "not measured: no such package")


def test_the_bare_proxy_says_the_same_as_protobuf_itself() -> None:
    order, generated = _order("mug"), Generated()
    plain = json_format.MessageToDict(order, always_print_fields_with_no_presence=True)
    assert generated.writer(order.DESCRIPTOR)(order) == plain
    rpc = RPCS["CreateOrder"]
    assert rpc.body is not None
    request = rpc.request("mug")
    made = type(request)()
    generated.reader(made.DESCRIPTOR)(rpc.body("mug"), made)
    assert made == request


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (Target(55, True), 55, True),
        (Target(55, True), 54.9, False),
        (Target(130), 130, False),
        (Target(130), 129, True),
    ],
)
def test_a_target_is_a_bound_from_its_own_side(target: Target, value: float, reached: bool) -> None:
    assert Figure("it", value, "", target).met is reached


def test_a_run_replaces_the_one_before_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE)
    figure = Figure("reads", 61.2, "%", Target(55, True), {"a|b": 2}, "rounds: 60, 61")
    report = Report(
        {"command": "python -m bench", "machine": {"CPU": "two cores"}}, [Section("edge", "calls", [figure])]
    )
    write_run(page, report)
    text = page.read_text()
    assert "The one before" not in text
    assert text.startswith("# Benchmarks\n\nHow.\n\n## A run\n\n- command: python -m bench\n- machine: CPU two cores\n")
    assert text.endswith("| reads | 61.2 % | at least 55 | reached | a\\|b 2.00; rounds: 60, 61 |\n")
    assert has_place(page)


def test_nothing_is_measured_for_a_page_without_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Another page\n")
    assert main(["--write", str(page)]) == 2
    assert main(["--write", str(page), "--quick"]) == 2
    said = capsys.readouterr().err
    assert "no section `## A run`" in said
    assert "do not count" in said
