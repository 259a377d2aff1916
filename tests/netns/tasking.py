"""What a mediation device asks of a tap under test, and what it finds in what it has received."""

from __future__ import annotations

import subprocess
from pathlib import Path

SERVER_PORT = 9_000
"""Where a subject's numbered datagrams go."""


def add(*lines: str, to: tuple[str, int], source: str, cdest: str = "md1") -> str:
    """A static ADD.

    Args:
        lines: Its criteria.
        to: Where copies go.
        source: Where they come from.
        cdest: The name of the content destination.
    """
    address, port = to
    return "\n".join(
        [
            "ADD DTCP/0.8",
            f"Cdest-ID: {cdest}",
            "Flags: STATIC",
            f"X-JTap-Cdest-Dest-Address: {address}",
            f"X-JTap-Cdest-Dest-Port: {port}",
            f"X-JTap-Cdest-Source-Address: {source}",
            "X-JTap-Cdest-Source-Port: 50000",
            *lines,
            "",
            "",
        ]
    )


def numbers(path: Path) -> list[int]:
    """The numbers of a subject's datagrams in a capture, in their order."""
    done = subprocess.run(
        ["tshark", "-r", str(path), "-T", "fields", "-e", "data.data", "-d", f"udp.port=={SERVER_PORT},data"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line[:8], 16) for line in done.stdout.splitlines()]
