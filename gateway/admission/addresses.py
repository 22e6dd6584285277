"""From where a request comes: its peer's address, or what trusted proxies say of it."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from uvicorn._types import HTTPScope

_SITE = 64
"""The bits of an IPv6 address that one customer of a provider has to themselves: behind them they may have any."""
_REMEMBERED = 10_000


class Addresses:
    """Tells for whose address a request counts."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """Believe the X-Forwarded-For of peers in the networks `trusted`, as in 10.0.0.0/8."""
        self._trusted = [ip_network(one) for one in trusted]
        self.trusts = lru_cache(_REMEMBERED)(self._is_trusted)
        """Tells whether an address is a trusted proxy's."""

    def of(self, scope: HTTPScope) -> str:
        """Return the address, and of an IPv6 address its network of 64 bits; nothing where there is none.

        With proxies between, it is the last one in X-Forwarded-For that no trusted proxy has: what stands before it
        is what that client says, be it true or not.
        """
        peer = scope["client"]
        host = peer[0] if peer is not None else ""
        if self._trusted and self.trusts(host):
            host = self._beyond(host, scope["headers"])
        return site_of(host)

    def _beyond(self, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        for said in _forwarded(headers):
            if (address := _read(said)) is None:
                return host  # What comes from there is not an address: it counts for the proxy that says so.
            host = str(address)
            if not self.trusts(host):
                return host
        return host

    def _is_trusted(self, host: str) -> bool:
        address = _read(host)
        return address is not None and any(address in one for one in self._trusted)


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """Give what the X-Forwarded-For headers say, from the last to the first."""
    values = [value for name, value in headers if name == b"x-forwarded-for"]
    return reversed(b",".join(values).decode("latin-1").split(","))


def _read(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, which may have a port behind it; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


@lru_cache(_REMEMBERED)
def site_of(host: str) -> str:
    """Return an address as it counts: IPv4 whole, even where it is written as IPv6, and IPv6 as its /64."""
    address = _read(host) if ":" in host else None
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _SITE), strict=False))
    return host if address is None else str(address)
