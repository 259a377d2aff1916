"""Puts recorded frames into encapsulations that the recording machine's kernel cannot terminate.

Every function takes an Ethernet frame as it was recorded and returns what the same frame looks like
on a link with that encapsulation, or nothing where there is no place for it (ARP in PPPoE, say).
The conversation stays as it was: the wrapped packet is the recorded one, octet by octet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

IPV4 = 4
ETHERNET_OCTETS = 14
# Shorter frames are padded on a real link [IEEE 802.3 §3.2.8]; the check sequence is not captured.
MINIMUM_FRAME_OCTETS = 60

ETHER_TYPE_IPV4 = 0x0800
ETHER_TYPE_IPV6 = 0x86DD
ETHER_TYPE_VLAN = 0x8100
ETHER_TYPE_SERVICE_VLAN = 0x88A8
ETHER_TYPE_MPLS = 0x8847
ETHER_TYPE_PPPOE_SESSION = 0x8864

VLAN_IDENTIFIER = 30
SERVICE_VLAN_IDENTIFIER = 200
DEMO_VLAN_IDENTIFIER = 30
PPPOE_SESSION = 0x2A01
TRANSPORT_LABEL = 16_001
SERVICE_LABEL = 24_010
GRE_KEY = 0x5EED0001
TUNNEL_IDENTIFIERS = (0x00005001, 0x00006001)

# Both ends of the tunnels; the edge router is the near one.
NEAR_END = bytes([203, 0, 113, 1])
FAR_END = bytes([203, 0, 113, 2])
EDGE_MAC = bytes.fromhex("02005e000101")

PROTOCOL_UDP = 17
PROTOCOL_GRE = 47
GTPU_PORT = 2152

# What the systems that write this link type put in front: BSD's number of the address family.
FAMILY_IPV4 = 2
FAMILY_IPV6_DARWIN = 30
FAMILY_IPV6_OPENBSD = 24

Wrapping = Callable[[bytes], bytes | None]


def vlan(frame: bytes) -> bytes:
    """One 802.1Q tag."""
    return _on_ethernet(frame, ETHER_TYPE_VLAN, struct.pack(">H", VLAN_IDENTIFIER) + frame[12:])


def qinq(frame: bytes) -> bytes:
    """An 802.1ad service tag in front of an 802.1Q tag; voice priority in the outer one."""
    outer = struct.pack(">HH", 5 << 13 | SERVICE_VLAN_IDENTIFIER, ETHER_TYPE_VLAN)
    inner = struct.pack(">H", VLAN_IDENTIFIER)
    return _on_ethernet(frame, ETHER_TYPE_SERVICE_VLAN, outer + inner + frame[12:])


def mpls(frame: bytes) -> bytes | None:
    """A stack of two labels [RFC 3032 §2.1], with the packet's hop count [RFC 3032 §2.4.3]."""
    packet = ip_packet(frame)
    if packet is None:
        return None
    hops = packet[8] if packet[0] >> 4 == IPV4 else packet[7]
    labels = struct.pack(">II", TRANSPORT_LABEL << 12 | hops, SERVICE_LABEL << 12 | 1 << 8 | hops)
    return _on_ethernet(frame, ETHER_TYPE_MPLS, labels + packet)


def pppoe(frame: bytes) -> bytes | None:
    """A PPPoE session [RFC 2516 §4] with uncompressed PPP protocol numbers."""
    payload = _pppoe_payload(frame)
    return None if payload is None else _on_ethernet(frame, ETHER_TYPE_PPPOE_SESSION, payload)


def pppoe_in_vlan(frame: bytes) -> bytes | None:
    """A PPPoE session inside an 802.1Q tag, as on an access line."""
    payload = _pppoe_payload(frame)
    if payload is None:
        return None
    tag = struct.pack(">HH", DEMO_VLAN_IDENTIFIER + 10, ETHER_TYPE_PPPOE_SESSION)
    return _on_ethernet(frame, ETHER_TYPE_VLAN, tag + payload)


def gre(frame: bytes) -> bytes | None:
    """GRE over IPv4 [RFC 2784 §2.1]; IPv6 packets travel with a key [RFC 2890 §2.1]."""
    packet = ip_packet(frame)
    if packet is None:
        return None
    if packet[0] >> 4 == IPV4:
        header = struct.pack(">HH", 0, ETHER_TYPE_IPV4)
    else:
        header = struct.pack(">HHI", 0x2000, ETHER_TYPE_IPV6, GRE_KEY)
    return _in_ipv4(frame, PROTOCOL_GRE, header + packet)


def gtpu(frame: bytes) -> bytes | None:
    """A mobile subscriber's tunnel: GTP-U over UDP [3GPP TS 29.281 §5.1], checksum not used."""
    packet = ip_packet(frame)
    if packet is None:
        return None
    tunnel = TUNNEL_IDENTIFIERS[_is_downstream(frame)]
    payload = struct.pack(">BBHI", 0x30, 0xFF, len(packet), tunnel) + packet
    ports = struct.pack(">HHHH", GTPU_PORT, GTPU_PORT, len(payload) + 8, 0)
    return _in_ipv4(frame, PROTOCOL_UDP, ports + payload)


def null(frame: bytes) -> bytes | None:
    """BSD loopback: the address family in the order of the host that writes, here little-endian."""
    packet = ip_packet(frame)
    if packet is None:
        return None
    return struct.pack("<I", FAMILY_IPV4 if packet[0] >> 4 == IPV4 else FAMILY_IPV6_DARWIN) + packet


def loop(frame: bytes) -> bytes | None:
    """OpenBSD loopback: the address family in network byte order."""
    packet = ip_packet(frame)
    if packet is None:
        return None
    return struct.pack(">I", FAMILY_IPV4 if packet[0] >> 4 == IPV4 else FAMILY_IPV6_OPENBSD) + packet


def ip_packet(frame: bytes) -> bytes | None:
    """The IP packet of an Ethernet frame, without padding; nothing for any other frame."""
    (ether_type,) = struct.unpack_from(">H", frame, 12)
    if ether_type == ETHER_TYPE_IPV4:
        (total,) = struct.unpack_from(">H", frame, ETHERNET_OCTETS + 2)
        return frame[ETHERNET_OCTETS : ETHERNET_OCTETS + total]
    if ether_type == ETHER_TYPE_IPV6:
        (length,) = struct.unpack_from(">H", frame, ETHERNET_OCTETS + 4)
        return frame[ETHERNET_OCTETS : ETHERNET_OCTETS + 40 + length]
    return None


def checksum(octets: bytes) -> int:
    """The Internet checksum [RFC 1071 §1]."""
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while carry := total >> 16:
        total = (total & 0xFFFF) + carry
    return ~total & 0xFFFF


def _is_downstream(frame: bytes) -> bool:
    return frame[6:12] == EDGE_MAC


def _on_ethernet(frame: bytes, ether_type: int, payload: bytes) -> bytes:
    wrapped = frame[:12] + struct.pack(">H", ether_type) + payload
    return wrapped.ljust(MINIMUM_FRAME_OCTETS, b"\0")


def _pppoe_payload(frame: bytes) -> bytes | None:
    packet = ip_packet(frame)
    if packet is None:
        return None
    protocol = 0x0021 if packet[0] >> 4 == IPV4 else 0x0057
    return struct.pack(">BBHHH", 0x11, 0, PPPOE_SESSION, len(packet) + 2, protocol) + packet


def _in_ipv4(frame: bytes, protocol: int, payload: bytes) -> bytes:
    ends = (FAR_END + NEAR_END) if _is_downstream(frame) else (NEAR_END + FAR_END)
    # "Don't fragment" set: such a packet needs no identification of its own [RFC 6864 §4.1].
    header = struct.pack(">BBHHHBBH", 0x45, 0, len(payload) + 20, 0, 0x4000, 64, protocol, 0) + ends
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return _on_ethernet(frame, ETHER_TYPE_IPV4, header + payload)
