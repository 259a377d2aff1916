"""The tap's own tunnels: what of them is never tapped, and the proof of it, as Python sees them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from flowtap import ContentDestination, Criteria, DataPlaneError, Engine, FilterTable, LinkType, Tap

PLAIN = str(Path(__file__).parents[2] / "captures" / "plain.pcap")
GATEWAY, PARTY, SPEAKER, DEVICE, SUBJECT = (
    "100.100.100.100",
    "123.123.123.123",
    "100.100.100.101",
    "2.2.2.2",
    "198.51.100.2",
)
TUNNEL = (GATEWAY, PARTY, ["100.100.100.101/32"], ["2.2.2.0/27"])
EVERYTHING = FilterTable.compile(
    [Criteria(1, deliver_to=["cd1"])],
    {"cd1": ContentDestination(address=DEVICE, port=30000, source_address=SPEAKER)},
)
ESP, UDP = 50, 17


def packet(source: str, destination: str, protocol: int, *, offset: int = 0) -> bytes:
    payload = struct.pack("!HHHH", 4500, 4500, 24, 0) + bytes(16)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, offset // 8, 64, protocol, 0)
    return head + IPv4Address(source).packed + IPv4Address(destination).packed + payload


def pcap(path: Path, packets: list[bytes]) -> str:
    content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, LinkType.RAW.number)
    for at, each in enumerate(packets):
        content += struct.pack("<IIII", at, 0, len(each), len(each)) + each
    path.write_bytes(content)
    return str(path)


PACKETS = [
    packet(GATEWAY, PARTY, ESP),
    packet(PARTY, GATEWAY, UDP),
    packet(PARTY, GATEWAY, UDP, offset=1480),
    packet(SPEAKER, DEVICE, UDP),
    packet(DEVICE, SPEAKER, UDP),
    packet(SUBJECT, DEVICE, UDP),
    packet(SUBJECT, PARTY, ESP),
]
OWN = 5


def test_an_engine_leaves_its_tunnels_out() -> None:
    engine = Engine(EVERYTHING, LinkType.RAW, tunnels=[TUNNEL])
    for each in PACKETS:
        engine.feed(each)
    stats = engine.stats()
    assert (stats.own, stats.matched) == (OWN, len(PACKETS) - OWN)
    assert engine.prove_exclusion() > 50
    bare = Engine(EVERYTHING, LinkType.RAW)
    for each in PACKETS:
        bare.feed(each)
    assert (bare.stats().own, bare.stats().matched) == (0, len(PACKETS))
    # Nobody said what is its own.
    assert bare.prove_exclusion() == 0


def test_addresses_and_networks_as_objects() -> None:
    tunnel = (ip_address("2001:db8::1"), ip_address("2001:db8::2"),
              [ip_network("2001:db8:1::/48"), ip_address(SPEAKER)],
              [ip_network("2001:db8:2::/48"), "2.2.2.0/27"])  # fmt: skip
    engine = Engine(EVERYTHING, LinkType.RAW, tunnels=[tunnel])
    engine.feed(packet(DEVICE, SPEAKER, UDP))
    assert engine.stats().own == 1
    assert engine.prove_exclusion() > 100


def test_a_tap_over_a_capture_and_one_that_plays_it(tmp_path: Path) -> None:
    path = pcap(tmp_path / "tunnels.pcap", PACKETS)
    with Tap.from_pcap(path, EVERYTHING) as tap:
        tap.exclude_tunnels([TUNNEL])
        tap.exclude_tunnels([("192.0.2.1", "192.0.2.2", [SPEAKER], ["192.0.2.3"])])
        assert tap.prove_exclusion() > 100
        assert sum(len(batch) for batch in tap) == len(PACKETS) - OWN
        assert tap.stats().own == OWN
    playing = Tap.replay([path], EVERYTHING, pace="fast", export=False)
    # Captures hold nothing of a tap without tunnels.
    assert playing.prove_exclusion() == 0
    playing.exclude_tunnels([TUNNEL])
    before = playing.prove_exclusion()
    playing.start()
    while not playing.finished:
        pass
    assert playing.prove_exclusion() == before > 50
    with pytest.raises(DataPlaneError, match="only before the start"):
        playing.exclude_tunnels([TUNNEL])
    stats = playing.stop()
    assert (stats.own, stats.matched) == (OWN, len(PACKETS) - OWN)


def test_a_live_tap_proves_it_before_the_start() -> None:
    tap = Tap.live("lo", EVERYTHING, own=[(6, None, 32_001)])
    without = tap.prove_exclusion()
    assert without > 12
    tap.exclude([(17, "127.0.0.1", 1814)])
    tap.exclude_tunnels([TUNNEL])
    # What goes through it needs an address of this host, which it has none of here.
    assert tap.prove_exclusion() > without + 40


def test_a_proof_that_fails_says_of_what() -> None:
    # A tunnel that takes everybody in proves nothing.
    everybody = (GATEWAY, PARTY, ["0.0.0.0/0"], ["2.2.2.0/27"])
    engine = Engine(EVERYTHING, LinkType.RAW, tunnels=[everybody])
    with pytest.raises(DataPlaneError, match=r"traffic of others is .* behind 123\.123"):
        engine.prove_exclusion()


@pytest.mark.parametrize(
    ("tunnel", "message"),
    [
        ((GATEWAY, PARTY, ["nowhere"], ["2.2.2.0/27"]), "^local_networks: the list has at place 1"),
        ((GATEWAY, PARTY, [SPEAKER], []), "^remote_networks: "),
        ((GATEWAY, "nobody", [SPEAKER], [DEVICE]), "IP address"),
    ],
)
def test_what_is_no_tunnel_is_refused(tunnel: tuple[str, str, list[str], list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(EVERYTHING, tunnels=[tunnel])
    with pytest.raises(ValueError, match=message):
        Tap.from_pcap(PLAIN, EVERYTHING).exclude_tunnels([tunnel])
