from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from flowtap._flowtap import host_addresses
from flowtap.diagnosis.addresses import first_inside


def test_this_host_s_addresses() -> None:
    addresses = host_addresses()
    assert ip_address("127.0.0.1") in addresses
    assert ip_address("192.0.2.1") not in addresses


def test_the_first_one_of_the_right_family() -> None:
    addresses: list[IPv4Address | IPv6Address] = [
        *map(ip_address, ("127.0.0.1", "192.0.2.2", "192.0.2.3", "fe80::1", "2001:db8::2"))
    ]
    networks = [ip_network("192.0.2.0/29"), ip_network("2001:db8::/64")]
    assert first_inside(addresses, networks, 4) == ip_address("192.0.2.2")
    assert first_inside(addresses, networks, 6) == ip_address("2001:db8::2")
    assert first_inside(addresses, networks[:1], 6) is None
