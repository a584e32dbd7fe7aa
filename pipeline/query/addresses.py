"""Who a client is by its address."""

import ipaddress
from collections.abc import Mapping
from typing import Any

_IPV6_SITE_BITS = 64  # what one customer usually has: all of it is one client

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Whether this is an address of this machine that others cannot reach (127.0.0.0/8, ::1)."""
    address = _parsed(text)
    return address is not None and address.is_loopback


def client_of(scope: Mapping[str, Any]) -> str:
    """The address that a request came from, empty when that is unknown."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def counted_as(text: str) -> str:
    """The name under which a client's requests are counted: its address, of IPv6 the network of its site."""
    address = _parsed(text)
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, _IPV6_SITE_BITS), strict=False))
    return text if address is None else str(address)
