from __future__ import annotations

import hashlib
import ipaddress
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from flowtap import CaptureError, Criteria, Engine, FilterTable, PermissionMissingError, Replay, explain
from flowtap._flowtap import Traffic
from flowtap.bench.traffic import Plan, benchmark_flows
from flowtap.cli.criteria import load_criteria

FLOW = ("198.18.0.1", "198.19.0.1", 17, 4000, 53)


def traffic(flows: list[tuple[str, str, int, int, int]]) -> Traffic:
    return Traffic(flows, subjects=[], subject_share_ppm=0, length_octets=None, seed=1)


def test_the_same_everywhere() -> None:
    # A change of this digest means that no figure can be compared with an older one.
    packets = Plan(hosts=10, match_share=0.1, ipv6_share=0.3).traffic().batches(1, 1000)[0][0]
    assert hashlib.sha256(packets).hexdigest()[:16] == "c9330632fc2dd45c"


def test_hosts_are_distinct_and_spread_over_the_families() -> None:
    plan = Plan(hosts=100_000, ipv6_share=0.25)
    hosts = [ipaddress.ip_address(plan.host(number)) for number in range(plan.hosts)]
    assert len(set(hosts)) == plan.hosts
    assert sum(host.version == 6 for host in hosts) == pytest.approx(25_000, abs=10)
    assert sum(host.version == 6 for host in hosts[:100]) == pytest.approx(25, abs=1)
    assert {Plan().host(number).startswith("100.") for number in range(1000)} == {True}
    assert {":" in Plan(ipv6_share=1).host(number) for number in range(1000)} == {True}


def test_more_hosts_are_those_of_fewer_and_others() -> None:
    few, many = Plan(hosts=3), Plan(hosts=1000)
    assert [few.host(number) for number in range(3)] == [many.host(number) for number in range(3)]


def test_shares_are_those_asked_for() -> None:
    plan = Plan(hosts=50, match_share=0.2, ipv6_share=0.5)
    engine = Engine(FilterTable.compile(plan.criteria()))
    (packets, records) = plan.traffic().batches(1, 20_000)[0]
    engine.feed_batch(packets, records)
    stats = engine.stats()
    assert (stats.frames, stats.undecodable) == (20_000, 0)
    assert stats.matched == pytest.approx(4000, rel=0.1)
    # All of them occur, in both directions.
    assert min(each.packets for each in stats.criteria) > 0
    assert len(stats.criteria) == 100
    v6 = Engine(FilterTable.compile([Criteria(1, source="::/0")]))
    v6.feed_batch(packets, records)
    assert v6.stats().matched == pytest.approx(10_000, rel=0.1)


def test_a_capture_is_what_the_batches_are(tmp_path: Path) -> None:
    plan = Plan(hosts=5, match_share=0.3)
    done: list[int] = []
    plan.traffic().write(tmp_path / "a.pcap", 100_000, progress=done.append)
    assert done == [65_536, 100_000]
    data = (tmp_path / "a.pcap").read_bytes()
    at = 24
    for packets, records in plan.traffic().batches(10, 10_000):
        for seconds, micros, offset, length in struct.iter_unpack("IIII", records):
            assert struct.unpack_from("<IIII", data, at) == (seconds, micros, length, length)
            assert data[at + 16 : at + 16 + length] == packets[offset : offset + length]
            at += 16 + length
    assert at == len(data)


def test_the_criteria_file_holds_the_criteria(tmp_path: Path) -> None:
    plan = Plan(hosts=20, match_share=0.5, ipv6_share=0.5)
    (tmp_path / "criteria").write_text(plan.requests())
    plan.traffic().write(tmp_path / "a.pcap", 5000)
    loaded = load_criteria(str(tmp_path / "criteria")).table
    counts = [
        [(each.id, each.packets) for each in Replay([str(tmp_path / "a.pcap")], table).run().stats.criteria]
        for table in (loaded, FilterTable.compile(plan.criteria()))
    ]
    assert counts[0] == counts[1]
    assert len(counts[0]) == 40


@pytest.mark.parametrize("length", [60, 64, 512, 1500])
def test_every_length(tmp_path: Path, length: int) -> None:
    Plan(length_octets=length).traffic().write(tmp_path / "a.pcap", 100)
    assert {frame.octets for frame in explain(str(tmp_path / "a.pcap"))} == {length}


def test_benchmark_addresses_only() -> None:
    network = ipaddress.ip_network("198.18.0.0/15")
    addresses = {address for flow in benchmark_flows(1, 1000) for address in flow[:2]}
    assert all(ipaddress.ip_address(address) in network for address in addresses)
    assert len(addresses) > 1900
    assert benchmark_flows(1, 10) != benchmark_flows(2, 10)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(match_share=1.5), "subject_share_ppm = 1500000: 0 to 1000000 is right"),
        (Plan(length_octets=10_000), "10000 octets; a frame has at most 9014"),
    ],
)
def test_what_cannot_be(plan: Plan, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan.traffic()


def test_flows_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"flows\[1\]: .nowhere. is not an IPv4 or IPv6 address"):
        traffic([FLOW, ("nowhere", "198.19.0.1", 17, 1, 2)])
    with pytest.raises(ValueError, match=r"flows\[0\]: source and destination address are of different"):
        traffic([("198.18.0.1", "2001:2::1", 17, 1, 2)])
    with pytest.raises(ValueError, match="flows: none is given"):
        traffic([])


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="create"):
        traffic([FLOW]).write(tmp_path / "missing" / "a.pcap", 1)
    with pytest.raises(CaptureError):
        traffic([FLOW]).write("/dev/full", 100_000)


def test_progress_can_end_it(tmp_path: Path) -> None:
    def enough(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        traffic([FLOW]).write(tmp_path / "a.pcap", 10**12, progress=enough)


def test_no_interface() -> None:
    with pytest.raises(Exception, match="no interface"):
        traffic([FLOW]).send("no-such-link", 1)


def test_another_seed_gives_other_frames() -> None:
    plan = Plan(hosts=2, match_share=0.5)
    assert plan.traffic().batches(1, 100) != replace(plan, seed=2).traffic().batches(1, 100)
    assert plan.flows(10) != replace(plan, seed=2).flows(10)
    assert plan.subjects() != replace(plan, seed=2).subjects()


def test_sending_needs_a_right(tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - only here
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    script = tmp_path / "send.py"
    script.write_text(
        "from flowtap import PermissionMissingError\n"
        "from flowtap.bench.traffic import Plan\n"
        "try:\n    Plan(match_share=0).traffic().send('lo', 1)\n"
        "except PermissionMissingError as error:\n    print(error.right)\n"
    )
    words = [sys.executable, str(script)]
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", *words]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "CAP_NET_RAW\n"
    assert issubclass(PermissionMissingError, Exception)
