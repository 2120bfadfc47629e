"""Which addresses alerts may be posted to: the internet's, and of an institution's own networks those that are named.

An address that was mistyped or planted must not have this process speak to the cloud's metadata service, to a database,
or to itself (server-side request forgery, OWASP API7:2023).
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import httpx2

from schemas.errors import ConfigurationError

Address = IPv4Address | IPv6Address

# Nobody's receiver: where clouds tell a machine its credentials, and what is no single host.
_NEVER = tuple(
    map(
        ip_network,
        (
            *("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32"),
            *("0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "255.255.255.255/32"),
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class NotAllowedError(Exception):
    """The receiver lies where alerts may not be posted to."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """The internal receivers that are allowed: host names, addresses, networks."""

    names: frozenset[str]
    networks: tuple[object, ...]

    @classmethod
    def of(cls, setting: str) -> Receivers:
        """Read hosts and networks, separated by commas; raise ConfigurationError for what can be neither."""
        names, networks = set(), []
        for one in filter(None, (part.strip().lower() for part in setting.split(","))):
            try:
                networks.append(ip_network(one))
            except ValueError:
                if "/" in one or ":" in one:
                    raise ConfigurationError(
                        "ALERT_INTERNAL_RECEIVERS takes host names, addresses and networks such as 10.1.0.0/16."
                    ) from None
                names.add(one)
        return cls(frozenset(names), tuple(networks))

    def allows(self, host: str, address: Address) -> bool:
        """Tell whether a host may be spoken to at an address that it has."""
        address = _plain(address)
        if any(address in network for network in _NEVER):
            return False
        return address.is_global or host.lower() in self.names or any(address in one for one in self.networks)  # type: ignore[operator]

    def require_allowed(self, name: str, url: httpx2.URL) -> None:
        """Raise ConfigurationError, that names a setting, for an address that no look-up can make good."""
        try:
            address = ip_address(url.host)
        except ValueError:
            return
        if not self.allows(url.host, address):
            raise ConfigurationError(f"{name} is an internal address that ALERT_INTERNAL_RECEIVERS does not name.")

    async def address_of(self, url: httpx2.URL) -> str:
        """Look up where a receiver is; raise NotAllowedError where it may not be, OSError where nobody knows."""
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        addresses = [str(one[4][0]) for one in found]
        if not addresses or not all(self.allows(url.host, ip_address(one.partition("%")[0])) for one in addresses):
            raise NotAllowedError
        return addresses[0]


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
