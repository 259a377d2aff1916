"""Two processes: the daemon faces the network without any right, the broker keeps the rights.

The broker hears nobody but the daemon: on requests that come over a pair of local sockets it opens what needs
a right (sockets with foreign source addresses, raw and packet sockets) and hands the descriptors over. It
ends when the daemon does.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowtap._flowtap import keep_rights, rights_held
from flowtap.errors import DataPlaneError
from flowtap.service.broker_process import KEPT
from flowtap.service.companion import end_companion, start_companion

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

__all__ = ["Broker", "give_up_rights"]

_GREETING_OCTETS: Final = 256
_PROGRAM: Final = "flowtap.service.broker_process"


class Broker:
    """The daemon's side.

    Args:
        interfaces: What the configuration captures from; no other packet socket is opened.

    Raises:
        DataPlaneError: It does not start.
    """

    def __init__(self, interfaces: Sequence[str]) -> None:
        self.rights: tuple[str, ...] = ()
        """Those of the broker."""
        self.socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if not set(rights_held()) & set(KEPT):
            # It would have nothing to give.
            return
        self._process, ours = start_companion(_PROGRAM, socket.SOCK_SEQPACKET, *interfaces)
        self.socket = ours
        with suppress(TimeoutError):
            word, _, rights = ours.recv(_GREETING_OCTETS).decode("ascii", "replace").strip().partition(" ")
            if word == "ready":
                ours.settimeout(None)
                self.rights = tuple(rights.split())
                return
        self.close()
        raise DataPlaneError("the broker, which keeps the rights to open sockets, does not start")

    @property
    def state(self) -> str:
        """One word for who asks: ``running``, ``ended``, or ``none`` where there was nothing to keep."""
        if self._process is None:
            return "none"
        return "running" if self._process.poll() is None else "ended"

    async def ended(self) -> None:
        """Returns when the broker has ended."""
        if self._process is None or self._process.poll() is not None:
            return
        descriptor = os.pidfd_open(self._process.pid)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Ends it."""
        if self.socket is not None:
            self.socket.close()
        if self._process is not None:
            end_companion(self._process)


def give_up_rights() -> None:
    """Leaves this process without any capability, for ever.

    Raises:
        DataPlaneError: A thread still has some, because it was there before.
    """
    keep_rights([])
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in {"CapEff", "CapPrm", "CapInh", "CapAmb"} and int(value, 16):
                raise DataPlaneError("rights could not be given up: a thread began too early")
