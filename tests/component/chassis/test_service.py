"""A service that is told to stop at a bad moment, or told nonsense."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.component.chassis.toy import Settings, Toy, build, task
from tests.component.chassis.world import on_sqlite
from weft import run
from weft.testing import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.component.chassis.world import World


@on_sqlite
async def test_a_process_ends_within_seconds_when_the_broker_hangs(world: World) -> None:
    process = world.process()
    await process.ready()
    assert world.nats.pid is not None
    os.kill(world.nats.pid, signal.SIGSTOP)
    try:
        process.signal(signal.SIGTERM)
        assert (await process.ended(8))[0] == 0
    finally:
        os.kill(world.nats.pid, signal.SIGCONT)


@on_sqlite
async def test_a_service_stops_cleanly_in_the_midst_of_a_burst(world: World) -> None:
    toy = Toy()
    await world.feed.send(*(task(f"a{n % 5}", n) for n in range(3000)))
    async with world.running(toy, batch_size=50):
        await eventually(lambda: world.rows.count("accounts"))
    handled = sum(len(seen) for seen in world.rows.all_seen().values())
    assert 0 < handled <= 3000
    async with world.running(toy, batch_size=500):
        for account in range(5):
            await world.until_seen(f"a{account}", range(account, 3000, 5))
    assert set(toy.tries.values()) <= {1, 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEFT_GRPC_PORT", "http"),
        ("WEFT_NATS_URL", "localhost"),
        ("WEFT_NATS_URL", "nats://localhost:x"),
        ("WEFT_BATCH_SIZE", "0"),
        ("WEFT_INSTANCE", ""),
    ],
)
def test_a_malformed_setting_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv("WEFT_DATABASE_URL", f"sqlite:///{tmp_path}/toy.db")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        run(lambda: [build(Settings())])
    [line] = capfd.readouterr().err.splitlines()
    assert end.value.code == 2
    assert line.startswith(f"{name}: ")
