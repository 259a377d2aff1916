"""Filters over the committed captures: against libpcap where it can say the same, and against what is in them."""

from __future__ import annotations

from pathlib import Path

import pcapy
import pytest

from flowtap import BpfProgram, Criteria, CriteriaError, Engine, FilterTable, LinkType, explain

CAPTURES = Path(__file__).parents[1] / "captures"
# libpcap looks at the first header after the link only, and at single frames.
PLAIN = ("plain", "dns", "http", "icmp", "ipv6", "sctp", "ssh", "voip", "snapped", "options")

CASES: list[tuple[dict[str, str | int], str]] = [
    ({"source": "192.0.2.10"}, "ip src host 192.0.2.10"),
    ({"destination": "192.0.2.0/24"}, "ip dst net 192.0.2.0/24"),
    ({"source": "2001:db8:1::/64"}, "ip6 src net 2001:db8:1::/64"),
    ({"protocol": 17, "source": "0.0.0.0/0"}, "ip proto 17"),
    ({"protocol": "6,17", "source": "0.0.0.0/0"}, "ip and (tcp or udp)"),
    ({"protocol": "132"}, "sctp"),
    ({"destination_port": 53}, "(tcp or udp) and dst port 53"),
    ({"source_port": "1024-*", "protocol": "6"}, "tcp src portrange 1024-65535"),
    ({"source_port": "!80", "protocol": "6"}, "tcp and not src port 80"),
    ({"destination": "192.0.2.0/24,!192.0.2.10"}, "ip dst net 192.0.2.0/24 and not dst host 192.0.2.10"),
    ({"icmp_type": 8, "source": "0.0.0.0/0"}, "icmp[icmptype] == icmp-echo"),
    (
        {
            "source": "192.0.2.10-192.0.2.20",
            "destination": "*",
            "protocol": "17",
            "destination_port": "*-1023",
        },
        "ip and src net 192.0.2.0/24 and ip[15] >= 10 and ip[15] <= 20 and udp dst portrange 0-1023",
    ),
]


def matched(path: Path, criteria: Criteria) -> list[int]:
    return [each.frame for each in explain(str(path), FilterTable.compile([criteria])) if each.matched]


def matched_by_libpcap(path: Path, expression: str) -> list[int]:
    reader = pcapy.open_offline(str(path))
    program = pcapy.compile(reader.datalink(), 262_144, expression, 1, 0xFFFFFFFF)
    ours = BpfProgram(program.get_bpf())
    found: list[int] = []
    number = 0
    while True:
        header, data = reader.next()
        if header is None:
            return found
        number += 1
        if program.filter(data):
            found.append(number)
        # Our interpreter runs libpcap's programs as libpcap does.
        assert bool(ours.run(data, header.getlen())) == bool(program.filter(data))


@pytest.mark.ledger("T-091")
@pytest.mark.parametrize(("fields", "expression"), CASES, ids=[case[1][:40] for case in CASES])
@pytest.mark.parametrize("name", PLAIN)
def test_libpcap_matches_the_same_frames(name: str, fields: dict[str, str | int], expression: str) -> None:
    path = CAPTURES / f"{name}.pcap"
    criteria = Criteria(1, **fields)  # type: ignore[arg-type]  # as the table has them
    assert matched(path, criteria) == matched_by_libpcap(path, expression)


def test_the_cases_match_something_somewhere() -> None:
    for fields, _ in CASES:
        criteria = Criteria(1, **fields)  # type: ignore[arg-type]  # as the table has them
        assert any(matched(CAPTURES / f"{name}.pcap", criteria) for name in PLAIN), fields


@pytest.mark.parametrize("name", ["vlan", "qinq", "mpls", "pppoe"])
def test_the_same_conversation_in_every_wrapping(name: str) -> None:
    """Tags, labels and sessions in front of a packet change nothing for criteria."""
    criteria = Criteria(1, source="192.0.2.0/24")
    wrapped = matched(CAPTURES / f"{name}.pcap", criteria)
    every = [
        each for each in explain(str(CAPTURES / f"{name}.pcap")) if (each.source or "").startswith("192.0.2.")
    ]
    assert wrapped == [each.frame for each in every]
    assert wrapped


def test_all_fragments_of_what_matches() -> None:
    """Ports are in the first fragment only; the engine lets the later ones follow it."""
    path = CAPTURES / "fragments.pcap"
    frames = list(explain(str(path)))
    assert sum(each.fragment is not None and each.fragment[0] > 0 for each in frames) > 5
    ports = {each.destination_port for each in frames if each.fragment is not None and each.destination_port}
    port = ports.pop()
    table = FilterTable.compile([Criteria(1, destination_port=port)])
    reader = pcapy.open_offline(str(path))
    engine = Engine(table, LinkType(reader.datalink()))
    for packets, records in iter(lambda: reader.next_batch(100), (b"", b"")):
        engine.feed_batch(packets, records)
    engine.flush()
    firsts = {(each.source, each.destination) for each in frames if each.destination_port == port}
    expected = [
        each
        for each in frames
        if (each.source, each.destination) in firsts
        and (each.destination_port == port or (each.fragment and each.fragment[0]))
    ]
    assert engine.stats().matched == len(expected)


@pytest.mark.parametrize(
    ("fields", "field", "syntax"),
    [
        ({"source": "192.0.2.1/33"}, "source", False),
        ({"source": "192.0.2.300"}, "source", False),
        ({"source": "nowhere"}, "source", True),
        ({"source": ""}, "source", True),
        ({"destination": "192.0.2.9-192.0.2.1"}, "destination", False),
        ({"source": "192.0.2.1", "destination": "2001:db8::1"}, "destination", False),
        ({"protocol": 256}, "protocol", False),
        ({"protocol": -1}, "protocol", True),
        ({"source_port": 65_536}, "source_port", False),
        ({"protocol": 1, "destination_port": 53}, "destination_port", False),
        ({"protocol": 6, "icmp_type": 8}, "icmp_type", False),
        ({"icmp_code": "0-", "icmp_type": 8}, "icmp_code", True),
        ({"timeout_idle_s": -1.0}, "timeout_idle_s", False),
    ],
)
def test_filters_that_cannot_be(fields: dict[str, str | int | float], field: str, syntax: bool) -> None:
    with pytest.raises(CriteriaError) as caught:
        Criteria(1, **fields)  # type: ignore[arg-type]  # as the table has them
    assert (caught.value.field, caught.value.syntax) == (field, syntax)
    assert field in str(caught.value)
