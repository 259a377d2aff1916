from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from flowtap.diagnosis.addresses import first_inside, host_addresses, local_ipv4, local_ipv6

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 6
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.2
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
"""
IF_INET6 = """\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000002 04 40 00 82     eth0
"""


def test_this_host_s_addresses_among_its_routes() -> None:
    assert list(map(str, local_ipv4(FIB_TRIE.splitlines()))) == ["127.0.0.1", "192.0.2.2"]
    assert list(map(str, local_ipv6(IF_INET6.splitlines()))) == ["fe80::fc:ff:fe00:1", "::1", "2001:db8::2"]
    assert ip_address("127.0.0.1") in host_addresses()


def test_the_first_one_of_the_right_family() -> None:
    addresses: list[IPv4Address | IPv6Address] = [
        *local_ipv4(FIB_TRIE.splitlines()),
        *local_ipv6(IF_INET6.splitlines()),
    ]
    networks = [ip_network("192.0.2.0/29"), ip_network("2001:db8::/64")]
    assert first_inside(addresses, networks, 4) == ip_address("192.0.2.2")
    assert first_inside(addresses, networks, 6) == ip_address("2001:db8::2")
    assert first_inside(addresses, networks[:1], 6) is None
