"""Where a request comes from, also by way of proxies that the settings name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from starlette.requests import Request

MAX_TEXT: Final = 64
"""Characters of an address."""
MAX_HOPS: Final = 20
"""Proxies in a row that are followed back."""


class Origins:
    """The addresses of clients. ``trusted``: addresses and networks of proxies whose headers are believed."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [ip_network(network) for network in trusted]

    def address(self, request: Request) -> str:
        """The address of the client: that of the connection, or where a trusted proxy made it, the nearest address in
        ``X-Forwarded-For`` that is not a trusted proxy's; empty where the server does not know it."""
        peer = "" if request.client is None else request.client.host
        if not self._trusts(peer):
            return peer
        given = ",".join(request.headers.getlist("x-forwarded-for"))
        for hop in reversed(given.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            if _parsed(hop.strip()) is None:
                return peer  # nothing before it can be believed
            peer = hop.strip()
            if not self._trusts(peer):
                break
        return peer

    def is_https(self, request: Request) -> bool:
        """Whether the client is known to have come by https: to this server, or to a trusted proxy that says so."""
        if request.scope["scheme"] == "https":
            return True
        peer = "" if request.client is None else request.client.host
        return self._trusts(peer) and request.headers.get("x-forwarded-proto", "").strip().lower() == "https"

    def _trusts(self, address: str) -> bool:
        if not self._networks:
            return False
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def share(address: str) -> str:
    """Whom an address stands for when requests are counted: of IPv6 its /64, which one customer of a provider has."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed) >> 64 << 64, 64)))
    return address if parsed is None else str(parsed)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An address; None: it is none. One of IPv4 in the form of IPv6 is the one of IPv4."""
    return _remembered(address) if len(address) <= MAX_TEXT else None


@lru_cache(1000)
def _remembered(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
