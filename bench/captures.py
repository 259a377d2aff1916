"""Capture and criteria files for the measurements, made once and kept in the target directory."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from flowtap._flowtap import Traffic
from flowtap.bench.traffic import Flow
from programs import ROOT

DIRECTORY = ROOT / "target" / "bench"
PIECE_OCTETS = 1 << 20


def drawn(flows: list[Flow], *, length_octets: int | None = None, seed: int = 1) -> Traffic:
    """Traffic of these flows and no others."""
    return Traffic(flows, subjects=[], subject_share_ppm=0, length_octets=length_octets, seed=seed)


def capture(name: str, traffic: Traffic, packets: int) -> Path:
    """A capture of the first packets, in the page cache."""
    # Traffic that has become another one must not be found under the old name.
    digest = hashlib.sha256(traffic.batches(1, 1000)[0][0]).hexdigest()[:8]
    path = DIRECTORY / f"{name}-{packets}-{digest}.pcap"
    if not path.exists():
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        print(f"bench: writing {path.name}", file=sys.stderr, flush=True)
        unfinished = path.with_suffix(".part")
        traffic.write(unfinished, packets)
        # Nobody's packets: tcpdump opens every file but the first as a user without rights.
        unfinished.chmod(0o644)
        unfinished.rename(path)
    with path.open("rb") as file:
        while file.read(PIECE_OCTETS):
            pass
    return path


def text_file(name: str, text: str) -> Path:
    """A file of criteria, or of a filter expression."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / name
    path.write_text(text)
    return path
