"""flowtap replay: what its files are to each other."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowtap.cli.main import run

if TYPE_CHECKING:
    import pytest

CAPTURES = Path(__file__).parents[2] / "captures"
ETHERNET, RAW = 1, 101
EVERYTHING = "ADD DTCP/0.7\nSource-Address: *\n"


def criteria(tmp_path: Path, text: str = EVERYTHING) -> str:
    path = tmp_path / "criteria.txt"
    path.write_text(text)
    return str(path)


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def interface(link_type: int, name: str) -> bytes:
    octets = name.encode()
    option = struct.pack("<HH", 2, len(octets)) + octets + bytes(-len(octets) % 4) + bytes(4)
    return block(1, struct.pack("<HHI", link_type, 0, 0) + option)


def packet(number: int, octets: bytes) -> bytes:
    return block(6, struct.pack("<IIIII", number, 0, 0, len(octets), len(octets)) + octets)


def pcapng(path: Path, *blocks: bytes) -> str:
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    path.write_bytes(section + b"".join(blocks))
    return str(path)


def datagram(fragment: int, payload: bytes) -> bytes:
    """UDP from 192.0.2.1 to 198.51.100.2, whole or a fragment."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, 17, 0)
    return head + bytes([192, 0, 2, 1, 198, 51, 100, 2]) + payload


FIRST = datagram(0x2000, struct.pack(">HHHH", 4000, 53, 24, 0) + bytes(8))
LATER = datagram(2, bytes(8))


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["replay", *words, "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_a_file_that_is_read_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    octets = (CAPTURES / "dns.pcap").read_bytes()
    path, link = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(octets)
    link.symlink_to(path)
    for name in (path, link):
        assert run(["replay", str(path), "--criteria", criteria(tmp_path), "-w", str(name)]) == 1
        assert "is read and cannot be written as well" in capsys.readouterr().err
    assert path.read_bytes() == octets


def test_a_frame_filter_is_for_one_link_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = datagram(0, struct.pack(">HHHH", 4000, 53, 8, 0))
    framed = bytes(12) + b"\x08\x00" + whole
    interfaces = interface(ETHERNET, "eth0") + interface(RAW, "tun0")
    mixed = pcapng(tmp_path / "mixed.pcapng", interfaces, packet(0, framed), packet(1, whole))
    words = ["replay", mixed, "--criteria", criteria(tmp_path)]
    assert run([*words, "udp", "port", "53"]) == 1
    assert "a frame filter is for one link type" in capsys.readouterr().err
    assert answer(capsys, *words[1:])["matched"] == 2


def test_a_frame_filter_reads_raw_packets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(CAPTURES / "raw.pcap"), "--criteria", criteria(tmp_path)]
    everything = answer(capsys, *words)
    some = answer(capsys, *words, "udp")
    others = answer(capsys, *words, "not", "udp")
    assert 0 < some["matched"] < everything["matched"]
    assert some["matched"] + others["matched"] == everything["matched"]


def test_a_fragment_keeps_its_interface_when_its_first_is_in_the_next_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = pcapng(tmp_path / "1.pcapng", interface(RAW, "eth0"), packet(0, LATER))
    two = pcapng(tmp_path / "2.pcapng", interface(RAW, "eth1"), packet(0, FIRST))
    text = "ADD DTCP/0.7\nSource-Address: *\nDest-Port: 53\nX-JTap-Input-Interface: {}\n"
    for name in ("eth0", "eth1"):
        found = answer(capsys, one, two, "--criteria", criteria(tmp_path, text.format(name)))
        assert found["matched"] == 1, name
    out = tmp_path / "out.pcapng"
    words = ("--criteria", criteria(tmp_path, EVERYTHING + "Dest-Port: 53\n"), "-w", str(out))
    assert answer(capsys, one, two, *words)["written"] == 2
    # The later fragment goes out behind its first, each as a frame of its own interface.
    assert answer(capsys, str(out), "--criteria", criteria(tmp_path, text.format("eth0")))["frames"] == 2
