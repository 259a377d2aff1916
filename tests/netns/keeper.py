"""A tunnel that is kept up in a process of its own: what it does with its gate, and why, as JSON lines.

Its guard is a file with what the guard lacks, one fault a line; it cannot be repaired from here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowtap.config import Configuration, LoadedConfiguration
from flowtap.delivery.credentials import read_tunnel_secrets
from flowtap.delivery.strongswan import StrongSwanTunnel
from flowtap.errors import TunnelError

if TYPE_CHECKING:
    from flowtap.delivery.tunnel import TunnelStatus

OTHERS = {"element": {"interfaces": ["lo"]}, "dtcp": {"ssh": {"host_key_file": "key"}}}
"""What a configuration cannot do without."""


def say(**words: Any) -> None:
    print(json.dumps({"at_s": time.monotonic(), **words}), flush=True)


class Gate:
    """Says what is done with it."""

    is_open = False

    def open(self) -> None:
        if not self.is_open:
            say(gate="open")
        self.is_open = True

    def shut(self, in_doubt_s: float = 0.0) -> None:
        if self.is_open:
            say(gate="shut", in_doubt_s=in_doubt_s)
        self.is_open = False


class FileGuard:
    """Lacks what stands in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def install(self) -> list[str]:
        return await self.verify()

    async def verify(self) -> list[str]:
        return self._file.read_text().splitlines()

    async def changed(self, seen: int) -> int:
        await asyncio.Event().wait()
        return seen


def changed(status: TunnelStatus) -> None:
    say(state=status.state.value, reason=status.reason)


async def obey(tunnel: StrongSwanTunnel) -> None:
    """Does what is asked, a line each, until there is no more."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        words = line.decode().split()
        try:
            if words[0] == "rekey":
                await tunnel.rekey("ike" if words[1] == "ike" else "child")
            else:
                await {"up": tunnel.up, "down": tunnel.down, "unload": tunnel.unload}[words[0]]()
            say(done=line.decode().strip())
        except TunnelError as error:
            say(failed=str(error))


async def main() -> None:
    job = json.loads(sys.argv[1])
    values = Configuration.model_validate({**OTHERS, "tunnel": {"md": job["section"]}})
    configuration = LoadedConfiguration(Path(job["directory"]) / "flowtap.toml", values)
    tunnel = StrongSwanTunnel(
        "md",
        values.tunnel["md"],
        secrets=read_tunnel_secrets(configuration, "md"),
        gate=Gate(),
        guard=FileGuard(Path(job["faults"])),
        on_change=changed,
    )
    running = asyncio.create_task(tunnel.run())
    await obey(tunnel)
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        say(ended=True)


logging.basicConfig(level=logging.INFO, stream=sys.stderr)
asyncio.run(main())
