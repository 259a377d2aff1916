"""The process that owns the guard: ``python -m flowtap.service.guard_process DESCRIPTOR``.

It hears what the guard has to hold once, before the daemon hears the network, and after that two words:
``install`` and ``verify``. So whoever has taken over the daemon can have the guard put in place, and looked
at, and no more.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from flowtap._flowtap import keep_rights
from flowtap.delivery.guard import GuardPlan
from flowtap.errors import FlowtapError
from flowtap.service.netfilter import Netfilter

KEPT: Final = "CAP_NET_ADMIN"
"""All that it keeps of what it was started with, for itself and the programs that it starts."""
PLAN_OCTETS: Final = 16 << 20
"""The longest plan: many times what a configuration may hold of networks."""
WORD_OCTETS: Final = 16


def main(descriptor: int) -> None:
    """Gives up all other rights, hears the plan, and answers until the daemon has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    keep_rights([KEPT], ambient=True)
    # A daemon that was killed reads nothing more, and is nobody to complain to.
    with (
        suppress(BrokenPipeError, ConnectionResetError),
        socket.socket(fileno=descriptor) as connection,
        connection.makefile("rb") as heard,
    ):
        plan = GuardPlan.from_json(heard.readline(PLAN_OCTETS).decode())
        netfilter = Netfilter()
        _answer(connection, [])
        while word := heard.readline(WORD_OCTETS):
            _answer(connection, _done(netfilter, plan, word.strip()))


def _done(netfilter: Netfilter, plan: GuardPlan, word: bytes) -> list[str]:
    """What is wrong with the guard after a request."""
    try:
        match word:
            case b"install":
                return netfilter.install(plan)
            case b"verify":
                return netfilter.verify(plan)
            case _:
                return ["the request is none; install and verify are"]
    except FlowtapError as error:
        return [str(error)]


def _answer(connection: socket.socket, found: list[str]) -> None:
    connection.sendall(json.dumps(found).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
