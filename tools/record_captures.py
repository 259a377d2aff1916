#!/usr/bin/env python3
"""Records the captures of tests/captures with real programs in network namespaces, and wraps them.

    sudo python tools/record_captures.py [OUTDIR [NAME...]]

OUTDIR is tests/captures if not given; with names, only those captures are recorded again. Needs
root, Linux, and the programs named in the README of the captures. Nothing is loaded from anywhere;
the namespaces have no way out. What it starts it ends, and what it creates it removes, whatever
happens; after five minutes it gives up.
"""

from __future__ import annotations

import gzip
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import wrap_captures
from captures.capture_files import read_pcap
from captures.processes import Processes, RecordingError, run
from captures.provenance import Row, read_rows, row_of, write_rows
from captures.recordings import RECORDINGS, Recording, record
from captures.services import Scene, start_all
from captures.topology import Topology, require_root

if TYPE_CHECKING:
    from types import FrameType

TIME_LIMIT_S = 300

# Program -> how it tells its version, and where the number is in what it says.
VERSIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "tcpdump": (("tcpdump", "--version"), r"version (\S+)"),
    "dumpcap": (("dumpcap", "--version"), r"Dumpcap \(Wireshark\) (\d\S*)"),
    "ping": (("ping", "-V"), r"iputils (\S+)"),
    "dig": (("dig", "-v"), r"DiG (\d+\.\d+\.\d+)"),
    "dnsmasq": (("dnsmasq", "--version"), r"version (\S+)"),
    "curl": (("curl", "--version"), r"curl (\S+)"),
    "lighttpd": (("lighttpd", "-v"), r"lighttpd/(\S+)"),
    "sftp": (("ssh", "-V"), r"OpenSSH_([^\s,]+)"),
    "sshd": (("ssh", "-V"), r"OpenSSH_([^\s,]+)"),
    "sipp": (("sipp", "-v"), r"SIPp v(\d+\.\d+\.\d+)"),
    "iperf3": (("iperf3", "--version"), r"iperf (\S+)"),
    "traceroute": (("traceroute", "--version"), r"version (\d[\d.]*)"),
    "nc": (("dpkg-query", "-W", "-f", "${Version}", "netcat-openbsd"), r"(\d[\d.]*)"),
    "tsctp": (("dpkg-query", "-W", "-f", "${Version}", "libusrsctp-examples"), r"(\d[\d.]*)"),
}
COMPRESSED = (("icmp.pcap", ".gz", "gzip"), ("dns.pcap", ".zst", "zstd"))


def named_with_version(program: str) -> str:
    """A program with its version; our own scripts have none."""
    if program not in VERSIONS:
        return program
    command, expression = VERSIONS[program]
    found = re.search(expression, run("sh", "-c", '"$@" 2>&1', "sh", *command, accept=(0, 1, 99)))
    return f"{program} {found.group(1)}" if found else program


def compress(output: Path) -> list[Row]:
    """Two captures once more, compressed."""
    rows = []
    for name, suffix, program in COMPRESSED:
        source = output / name
        target = output / (name + suffix)
        if program == "gzip":
            target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
            by = "Python gzip"
        else:
            run("zstd", "-q", "-f", "-19", source, "-o", target)
            by = "zstd"
        rows.append(
            row_of(
                output,
                target,
                made="compressed",
                by=by,
                content=f"{name}, compressed",
                measured=source,
            )
        )
    return rows


def record_all(chosen: list[Recording], output: Path) -> None:
    """Records the chosen captures and brings the table up to date."""
    rows = read_rows(output)
    with (
        tempfile.TemporaryDirectory(prefix="flowtap-captures-") as directory,
        Topology() as topology,
        Processes(Path(directory)) as processes,
    ):
        scene = Scene(topology, processes, Path(directory))
        start_all(scene)
        for recording in chosen:
            missing = recording.unless()
            if missing is not None:
                print(f"{recording.name}: left out; {missing}", flush=True)
                continue
            record(scene, recording, output)
            by = ", ".join(map(named_with_version, (recording.recorder, *recording.programs)))
            row = row_of(output, output / recording.name, made="recorded", by=by, content=recording.content)
            rows[recording.name] = row
            print(f"{recording.name}: {row.frames} frames", flush=True)
    for row in compress(output):
        rows[row.file] = row
    write_rows(output, rows, read_pcap(output / wrap_captures.SCENE))


def give_up(number: int, _frame: FrameType | None) -> None:
    """Turns a signal into an exception, so that everything is cleaned up."""
    message = f"ended by signal {signal.Signals(number).name}"
    raise RecordingError(message)


def main(words: list[str]) -> int:
    """Records and wraps; returns the exit status."""
    output = Path(words[0]).resolve() if words else wrap_captures.CAPTURES
    names = words[1:]
    known = {recording.name: recording for recording in RECORDINGS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(
            f"record_captures: no capture {unknown[0]!r}; there are: {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)
    signal.alarm(TIME_LIMIT_S)
    try:
        require_root()
        output.mkdir(parents=True, exist_ok=True)
        record_all([known[name] for name in names] or list(RECORDINGS), output)
    except (RecordingError, OSError) as error:
        print(f"record_captures: {error}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
    return wrap_captures.main([str(output)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
