"""The process that keeps the rights: ``python -m flowtap.service.broker_process DESCRIPTOR INTERFACE...``."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from flowtap._flowtap import keep_rights, rights_held, serve_broker

KEPT: Final = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW")
"""What it keeps of what it was started with."""


def main(descriptor: int, interfaces: list[str]) -> None:
    """Gives up all other rights, says which are left, and answers until the daemon has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    keep_rights(KEPT)
    # A daemon that was killed reads nothing more, and is nobody to complain to.
    with suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=descriptor) as connection:
        connection.sendall(f"ready {' '.join(rights_held())}\n".encode())
        serve_broker(descriptor, interfaces)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
