"""`python -m cli.chaos.wired DIR WISHES` runs `weft up` with a proxy of somebody else's in each inner connection.

DIR/wiring.json says where the proxies listen; DIR/ports.json, written at the start, where they have to lead.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.chaos.plan import Link
from cli.errors import Problem
from cli.plan import Wishes
from cli.probes import LOOPBACK
from cli.system import System
from cli.up import up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.child import Child

_ADDRESS = re.compile(re.escape(LOOPBACK) + r":(\d+)")


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where the proxies listen, and where they have to lead: two files in the system's folder."""

    proxies: Mapping[Link, int]

    @classmethod
    def read(cls, folder: Path) -> Wiring:
        """Read what `write` wrote."""
        found = json.loads((folder / "wiring.json").read_text())
        return cls({Link(*link): port for *link, port in found})

    def write(self, folder: Path) -> None:
        """Leave it for the system that is about to start."""
        (folder / "wiring.json").write_text(json.dumps([[*link, port] for link, port in self.proxies.items()]))


def find_port(folder: Path, link: Link) -> int | None:
    """Return the port to which a link leads, in the system that was started in `folder`; None before that."""
    try:
        port: int = json.loads((folder / "ports.json").read_text())[link.target][link.port]
    except (OSError, ValueError, KeyError):
        return None
    return port


class WiredSystem(System):
    """A system whose processes reach each other through proxies."""

    def processes(self, *, one_process: bool) -> list[Child]:
        """Return what to run; each process is told the addresses of proxies where its links have them."""
        ports: dict[str, dict[str, int]] = {}
        for (name, port), number in self.ports.items():
            ports.setdefault(name, {})[port] = number
        draft = self.data / "ports.tmp"
        draft.write_text(json.dumps(ports))
        draft.replace(self.data / "ports.json")
        proxies = Wiring.read(self.data).proxies
        return [self._wire(child, proxies) for child in super().processes(one_process=one_process)]

    def _wire(self, child: Child, proxies: Mapping[Link, int]) -> Child:
        detours = {
            self.ports[link.target, link.port]: proxy for link, proxy in proxies.items() if link.source == child.name
        }

        def detour(address: re.Match[str]) -> str:
            port = int(address[1])
            return f"{LOOPBACK}:{detours.get(port, port)}"

        return replace(child, env={name: _ADDRESS.sub(detour, value) for name, value in child.env.items()})


def main(folder: str, wishes: str) -> int:
    """Run it; return the exit code."""
    asked = json.loads(wishes)
    try:
        return up(Wishes(Path(folder), **asked, gateway_port=0, log_format="json"), WiredSystem)
    except Problem as problem:
        print(f"weft: {problem}", file=sys.stderr)
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
