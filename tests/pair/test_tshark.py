"""What explain says of every committed capture, against what tshark says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flowtap import Explanation, explain

CAPTURES = Path(__file__).parents[1] / "captures"
FIELDS = (
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "ip.proto",
    "ieee8021ad.id",
    "vlan.id",
    "mpls.label",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
    "frame.protocols",
)

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]


def dissected(path: Path) -> list[dict[str, list[str]]]:
    # Reassembly would tell ports of fragments that do not carry them.
    options = [
        "-o",
        "ip.defragment:FALSE",
        "-o",
        "ipv6.defragment:FALSE",
        "-n",
        "-T",
        "fields",
        "-E",
        "occurrence=a",
    ]
    fields = [word for field in FIELDS for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", str(path), *options, "-E", "separator=|", *fields],
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        {
            field: value.split(",") if value else []
            for field, value in zip(FIELDS, line.split("|"), strict=True)
        }
        for line in done.stdout.splitlines()
    ]


def outermost(frame: dict[str, list[str]]) -> tuple[str | None, str | None]:
    """The addresses of whichever IP comes first."""
    protocols = frame["frame.protocols"][0].split(":") if frame["frame.protocols"] else []
    for protocol in protocols:
        if protocol in {"ip", "ipv6"}:
            return frame[f"{protocol}.src"][0], frame[f"{protocol}.dst"][0]
    return None, None


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CAPTURES.iterdir() if path.suffix in {".pcap", ".pcapng", ".gz", ".zst"}),
    ids=lambda path: path.name,
)
def test_tshark_says_the_same(path: Path) -> None:
    theirs = dissected(path)
    ours = list(explain(str(path)))
    assert len(ours) == len(theirs) > 0
    for frame, other in zip(ours, theirs, strict=True):
        check(frame, other)


def check(frame: Explanation, other: dict[str, list[str]]) -> None:
    where = f"frame {frame.frame}: {frame.layers}"
    assert (frame.source, frame.destination) == outermost(other), where
    # Service tags stand in front of customer tags, and have a name of their own.
    assert [str(vlan) for vlan in frame.vlan] == other["ieee8021ad.id"] + other["vlan.id"], where
    assert [str(label) for label in frame.mpls] == other["mpls.label"], where
    ip_layers = [layer for layer in frame.layers if layer in {"ipv4", "ipv6"}]
    if ip_layers and ip_layers[0] == "ipv4":
        assert str(frame.protocol) == other["ip.proto"][0], where
    if len(ip_layers) == 1 and frame.source_port is not None:
        name = {6: "tcp", 17: "udp", 132: "sctp"}[frame.protocol or 0]
        ports = [other[f"{name}.srcport"][:1], other[f"{name}.dstport"][:1]]
        assert ports == [[str(frame.source_port)], [str(frame.destination_port)]], where
