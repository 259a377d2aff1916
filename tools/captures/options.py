"""Sends UDP datagrams with IPv6 extension headers or IPv4 options, which no everyday program sets.

    python options.py SOURCE DESTINATION PORT

The kernel builds and checks the packets; nothing is made up on the wire.
"""

from __future__ import annotations

import socket
import sys
import time

PAUSE_S = 0.02

# PadN over the whole of the eight octets [RFC 8200 §4.2]; the kernel fills in the next header.
PADDING_HEADER = bytes([0, 0, 1, 4, 0, 0, 0, 0])
# Router alert, "datagram contains a value of 0" [RFC 2711 §2.1], then PadN.
ROUTER_ALERT_HEADER = bytes([0, 0, 5, 2, 0, 0, 1, 0])
# Record route with room for three addresses [RFC 791 §3.1], then end of list.
RECORD_ROUTE_OPTION = bytes([7, 15, 4, *bytes(12), 0])
# Timestamps without addresses, room for two [RFC 791 §3.1].
TIMESTAMP_OPTION = bytes([68, 12, 5, 0, *bytes(8)])

EXTENSION_HEADERS: tuple[tuple[str, list[tuple[int, bytes]]], ...] = (
    ("no extension header", []),
    ("hop-by-hop options", [(socket.IPV6_HOPOPTS, ROUTER_ALERT_HEADER)]),
    ("destination options", [(socket.IPV6_DSTOPTS, PADDING_HEADER)]),
    ("both", [(socket.IPV6_HOPOPTS, PADDING_HEADER), (socket.IPV6_DSTOPTS, PADDING_HEADER)]),
)


def send_ipv6(source: str, destination: str, port: int) -> None:
    """Sends a datagram for each set of extension headers, and a fragmented one with all of them."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.bind((source, port))
        for text, headers in EXTENSION_HEADERS:
            ancillary = [(socket.IPPROTO_IPV6, kind, value) for kind, value in headers]
            sender.sendmsg([text.encode()], ancillary, 0, (destination, port))
            time.sleep(PAUSE_S)
        everything = [(socket.IPPROTO_IPV6, kind, value) for kind, value in EXTENSION_HEADERS[-1][1]]
        sender.sendmsg([b"fragmented " * 200], everything, 0, (destination, port))


def send_ipv4(source: str, destination: str, port: int) -> None:
    """Sends one datagram for each option, and a fragmented one with an option that is copied."""
    for text, option in (
        ("no option", b""),
        ("record route", RECORD_ROUTE_OPTION),
        ("timestamp", TIMESTAMP_OPTION),
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, option)
            sender.bind((source, port))
            sender.sendto(text.encode(), (destination, port))
            if option:
                sender.sendto(b"fragmented " * 200, (destination, port))
        time.sleep(PAUSE_S)


def main(words: list[str]) -> None:
    """Sends the datagrams of one address family."""
    source, destination, port = words
    if ":" in source:
        send_ipv6(source, destination, int(port))
    else:
        send_ipv4(source, destination, int(port))


if __name__ == "__main__":
    main(sys.argv[1:])
