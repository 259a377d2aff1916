"""The captures are what their provenance table says, and another program agrees with it."""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "tests" / "captures"
DEMO = ROOT / "python" / "flowtap" / "demo"
README = CAPTURES / "README.md"

DEMO_LIMIT_OCTETS = 400 * 1024
TOTAL_LIMIT_OCTETS = 1536 * 1024

# Number of the link type as tshark counts them -> our name.
TSHARK_LINK_TYPES = {
    "1": "ETHERNET",
    "7": "RAW",
    "15": "NULL",
    "25": "LINUX_SLL",
    "174": "LOOP",
    "210": "LINUX_SLL2",
}
CHECKSUM_PREFERENCES = (
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "sctp.checksum:CRC32C",
)
COMPLAINTS = " || ".join(
    (
        "_ws.malformed",
        "_ws.expert.severity == error",
        *(f"{name}.checksum.status == bad" for name in ("ip", "tcp", "udp", "icmp", "icmpv6", "sctp")),
    )
)
OUR_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4"),
            *("2001:db8::/32", "fe80::/10", "ff00::/8", "::/128"),
        ),
    )
)


@dataclass(frozen=True)
class Row:
    path: Path
    made: str
    by: str
    link_types: frozenset[str]
    frames: int
    sha256: str


def section(name: str) -> list[list[str]]:
    """The cells of the tables in one section of the README, without the heads."""
    text = README.read_text().partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
    lines = [line for line in text.splitlines() if line]
    rules = [index for index, line in enumerate(lines) if line.startswith("| --- ")]
    heads = {index + shift for index in rules for shift in (-1, 0)}
    return [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for index, line in enumerate(lines)
        if index not in heads
    ]


def table() -> list[Row]:
    rows = []
    for file, made, by, link_types, frames, digest, _ in section("table"):
        names = frozenset(link_types.split(", "))
        rows.append(Row((CAPTURES / file).resolve(), made, by, names, int(frames), digest))
    return rows


ROWS = table()
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.path.name for row in ROWS])


def output_of(*words: str | Path) -> bytes:
    """What a program writes; it must succeed."""
    completed = subprocess.run(words, capture_output=True, check=True)
    return completed.stdout


def tshark(path: Path, *words: str) -> list[str]:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    preferences = [word for preference in CHECKSUM_PREFERENCES for word in ("-o", preference)]
    return output_of(program, "-n", "-r", path, *preferences, *words).decode().splitlines()


def test_table_lists_every_file() -> None:
    files = {path for path in CAPTURES.iterdir() if path != README} | set(DEMO.glob("*.pcap*"))
    assert {row.path for row in ROWS} == files


def test_table_names_how_each_file_was_made() -> None:
    assert {row.made for row in ROWS} == {"recorded", "wrapped", "compressed"}


def test_files_are_small() -> None:
    assert (DEMO / "demo.pcapng").stat().st_size < DEMO_LIMIT_OCTETS
    assert sum(row.path.stat().st_size for row in ROWS) < TOTAL_LIMIT_OCTETS


@each_row
def test_file_is_the_one_in_the_table(row: Row) -> None:
    assert hashlib.sha256(row.path.read_bytes()).hexdigest() == row.sha256


def test_wrapping_again_gives_the_same_octets(tmp_path: Path) -> None:
    tool = ROOT / "tools" / "wrap_captures.py"
    output_of(sys.executable, tool, CAPTURES, tmp_path, tmp_path)
    wrapped = {row.path.name: row.path for row in ROWS if row.made == "wrapped"}
    assert {path.name for path in tmp_path.iterdir()} == wrapped.keys()
    for name, path in wrapped.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes(), name


def test_gzip_file_holds_the_recorded_one() -> None:
    content = gzip.decompress((CAPTURES / "icmp.pcap.gz").read_bytes())
    assert content == (CAPTURES / "icmp.pcap").read_bytes()


def test_zstd_file_holds_the_recorded_one() -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("zstd is not installed")
    content = output_of(program, "-q", "-d", "-c", CAPTURES / "dns.pcap.zst")
    assert content == (CAPTURES / "dns.pcap").read_bytes()


@pytest.mark.interop
@each_row
def test_tshark_counts_the_same_frames_of_the_same_link_type(row: Row) -> None:
    link_types = tshark(row.path, "-T", "fields", "-e", "frame.encap_type")
    assert len(link_types) == row.frames
    assert {TSHARK_LINK_TYPES[number] for number in link_types} == row.link_types


@pytest.mark.interop
@each_row
def test_tshark_has_nothing_to_complain_about(row: Row) -> None:
    assert tshark(row.path, "-Y", COMPLAINTS) == []


@pytest.mark.interop
@each_row
def test_addresses_are_nobodys(row: Row) -> None:
    fields = [word for name in ("ip.addr", "ipv6.addr") for word in ("-e", name)]
    lines = set(tshark(row.path, "-T", "fields", "-E", "aggregator= ", *fields))
    for text in {address for line in lines for address in line.split()}:
        address = ipaddress.ip_address(text)
        assert any(address in network for network in OUR_NETWORKS), text
    # A unicast MAC address has its second-lowest bit set if it is locally administered.
    for line in set(tshark(row.path, "-T", "fields", "-E", "aggregator= ", "-e", "eth.src")):
        assert all(int(mac[:2], 16) & 2 for mac in line.split()), line


@pytest.mark.interop
def test_demo_has_as_many_frames_of_each_subject_as_the_table_says() -> None:
    subjects = {cells[0]: int(cells[1]) for cells in section("demo") if len(cells) == 4}
    assert len(subjects) == 7
    for subject, frames in subjects.items():
        field = "ipv6" if ":" in subject else "ip"
        display_filter = f"{field}.src == {subject} || {field}.dst == {subject}"
        assert len(tshark(DEMO / "demo.pcapng", "-Y", display_filter)) == frames, subject
