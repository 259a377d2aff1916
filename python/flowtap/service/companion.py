"""Processes beside the daemon, which keep rights that it gives up; each hears nobody but the daemon."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Final

__all__ = ["end_companion", "start_companion"]

START_S: Final = 30
"""How long one may take until it says that it is ready."""
END_S: Final = 2
"""How long one may take to end after its connection was closed."""


def start_companion(
    module: str, kind: socket.SocketKind, *words: str
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a module of this package; its words are the number of its end of a connection, and these.

    Args:
        module: Its name.
        kind: Of the local sockets.
        words: What was validated.

    Returns:
        The process, and the daemon's end, with a time limit for the greeting.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and words that were validated
            # -P: it has rights, so nothing that happens to lie in the current directory is code for it.
            [sys.executable, "-P", "-m", module, str(theirs.fileno()), *words],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # Signals of a terminal are for the daemon; the process ends with it.
            process_group=0,
        )
    ours.settimeout(START_S)
    return process, ours


def end_companion(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of one whose connection was closed, and no longer than it may take."""
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
