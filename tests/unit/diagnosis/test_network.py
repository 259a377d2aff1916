from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

from flowtap.config.schema import ContentDestinationSection
from flowtap.diagnosis.finding import Unknown
from flowtap.diagnosis.network import Interface, copy_length, interface, longest_inside, tunnel_interface

CIPHERS: dict[str, dict[str, Any]] = {
    "aes256gcm16-ecp384": {"crypt_algo": "AES-GCM", "crypt_key": b"k" * 36},
    "aes128gcm16": {"crypt_algo": "AES-GCM", "crypt_key": b"k" * 20},
    "chacha20poly1305": {"crypt_algo": "CHACHA20-POLY1305", "crypt_key": b"k" * 36},
    "3des-sha1": {
        "crypt_algo": "3DES",
        "crypt_key": bytes(range(24)),
        "auth_algo": "HMAC-SHA1-96",
        "auth_key": b"k" * 20,
    },
    "aes256-sha256": {
        "crypt_algo": "AES-CBC",
        "crypt_key": b"k" * 32,
        "auth_algo": "SHA2-256-128",
        "auth_key": b"k" * 32,
    },
    "aes256-sha512-modp2048": {
        "crypt_algo": "AES-CBC",
        "crypt_key": b"k" * 32,
        "auth_algo": "SHA2-512-256",
        "auth_key": b"k" * 64,
    },
}


@pytest.mark.parametrize("proposal", CIPHERS)
# scapy encapsulates in UDP over IPv4 only.
@pytest.mark.parametrize(("version", "encapsulated"), [(4, False), (4, True), (6, False)])
def test_the_longest_packet_inside_is_what_scapy_fits_in(
    proposal: str, version: int, *, encapsulated: bool
) -> None:
    outer = IP(src="192.0.2.1", dst="192.0.2.2") if version == 4 else IPv6(src="fd00::1", dst="fd00::2")
    association: Any = SecurityAssociation(  # type: ignore[no-untyped-call]  # scapy has no types
        ESP,
        spi=1,
        tunnel_header=outer,
        nat_t_header=UDP(sport=4500, dport=4500) if encapsulated else None,
        **CIPHERS[proposal],
    )

    def length(inner: int) -> int:
        packet = IP(src="192.0.2.3", dst="192.0.2.4") / UDP() / (b"x" * (inner - 28))
        return len(bytes(association.encrypt(IP(bytes(packet)))))

    for mtu in (1_400, 1_500, 1_501):
        longest = longest_inside(mtu, proposal, version, encapsulated=encapsulated)
        assert length(longest) <= mtu < length(longest + 1)


def destination(**changes: Any) -> ContentDestinationSection:
    values = {"address": "192.0.2.2", "port": 9, "source_address": "192.0.2.1"}
    return ContentDestinationSection.model_validate(values | changes)


@pytest.mark.parametrize(
    ("changes", "mtu", "verdict", "longest"),
    [
        ({}, 1_528, "ok", ""),
        ({}, 1_527, "warn", "1499"),
        ({}, 1_400, "warn", "1372"),
        ({"oversize": "refuse"}, 1_400, "fail", "1372"),
        ({"address": "fd00::1", "source_address": "fd00::2"}, 1_548, "ok", ""),
        ({"address": "fd00::1", "source_address": "fd00::2"}, 1_500, "warn", "1452"),
        ({}, Unknown("Network is unreachable"), "unknown", ""),
    ],
)
def test_which_copies_do_not_fit(
    changes: dict[str, str], mtu: int | Unknown, verdict: str, longest: str
) -> None:
    finding = copy_length("cd1", destination(**changes), "in clear", mtu)
    assert finding.verdict == verdict
    assert f"longer than {longest} octets" in finding.what or not longest


def test_interfaces() -> None:
    up = Interface(0x1003, "up", 1_500)
    assert interface("eth0", up).verdict == "ok"
    assert interface("eth0", Interface(0x1002, "down", 1_500)).advice == "ip link set eth0 up"
    assert interface("eth0", Interface(0x1003, "lowerlayerdown", 1_500)).verdict == "warn"
    assert interface("eth0", None).verdict == "fail"
    # A TUN device has no state of its own.
    assert tunnel_interface("ttp", "ipsec0", Interface(0x1091, "unknown", 1_400), ["eth0"]).verdict == "ok"
    assert tunnel_interface("ttp", "ipsec0", Interface(0x1090, "down", 1_400), ["eth0"]).verdict == "fail"
    assert tunnel_interface("ttp", "eth0", up, ["eth0"]).verdict == "fail"
    assert tunnel_interface("ttp", "ipsec0", None, []).verdict == "fail"


def test_addresses_are_read_as_the_kernel_writes_them() -> None:
    from flowtap.diagnosis.firewall import listening, read_sockets  # noqa: PLC0415 - only here

    tcp = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1588 1 0 100 0 0 10 0
   1: 0100007F:7D01 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1589 1 0 100 0 0 10 0
   2: 020200C0:7D02 010200C0:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1590 1 0 100 0 0 10 0
"""
    tcp6 = """\
  sl  local_address                         remote_address                        st
   0: B80D0120000000000000000002000000:7D01 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1591 1
   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1592 1
"""
    found = [*read_sockets("tcp", tcp), *read_sockets("tcp", tcp6)]
    assert [(each.address, each.port, each.inode) for each in found] == [
        ("0.0.0.0", 2024, 1588),
        ("127.0.0.1", 32001, 1589),
        ("2001:db8::2", 32001, 1591),
        ("::", 22, 1592),
    ]
    for address, port, inodes in (
        ("0.0.0.0", 32001, [1589]),
        ("127.0.0.1", 32001, [1589]),
        ("192.0.2.1", 32001, []),
        ("2001:db8::2", 32001, [1591]),
        ("192.0.2.1", 2024, [1588]),
        # A socket for all of IPv6 hears IPv4 as well.
        ("192.0.2.1", 22, [1592]),
    ):
        assert [each.inode for each in listening(found, "tcp", port, address)] == inodes, address
