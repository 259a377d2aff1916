"""The process that owns the guard: ``python -m flowtap.service.guard_process DESCRIPTOR``.

It hears what the guard has to hold once, before the daemon hears the network, and after that two words:
``install`` and ``verify``. So whoever has taken over the daemon can have the guard put in place, and looked
at, and no more. It says by itself when somebody else changes nftables or the rules of the routing policy.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from flowtap._flowtap import keep_rights
from flowtap.delivery.guard import GuardPlan
from flowtap.delivery.netfilter import Netfilter
from flowtap.errors import FlowtapError

KEPT: Final = "CAP_NET_ADMIN"
"""All that it keeps of what it was started with, for itself and the programs that it starts."""
PLAN_OCTETS: Final = 16 << 20
"""The longest plan: many times what a configuration may hold of networks."""
WORD_OCTETS: Final = 16
CHANGED: Final = "changed"
"""What is said where a guard that was sound may be so no more."""
_NETLINK_NETFILTER: Final = 12
_NEWS: Final = (
    (_NETLINK_NETFILTER, 7),  # NFNLGRP_NFTABLES
    (socket.NETLINK_ROUTE, 8),  # RTNLGRP_IPV4_RULE
    (socket.NETLINK_ROUTE, 19),  # RTNLGRP_IPV6_RULE
)
"""Where the kernel tells of changes: protocol and group (linux/netfilter/nfnetlink.h, linux/rtnetlink.h)."""


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
        netfilter, news = Netfilter(), _News()
        _answer(connection, [])
        # One question at a time: nothing waits in the reader while this waits here.
        while True:
            ready, _, _ = select.select([connection, *news.sockets], [], [])
            if connection in ready:
                if not (word := heard.readline(WORD_OCTETS)):
                    return
                _answer(connection, _done(netfilter, plan, news, word.strip()))
            elif news.take():
                _answer(connection, CHANGED)


class _News:
    """What the kernel tells of changes, to whomever may hear it; otherwise nothing is ever told."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        for protocol, group in _NEWS:
            with suppress(OSError):
                self.sockets.append(_listening(protocol, group))

    def take(self) -> bool:
        """Whether anything was told since the last time."""
        # Every one of them, whatever the first one says.
        return bool([each for each in self.sockets if self._drained(each)])

    def _drained(self, listening: socket.socket) -> bool:
        is_told = False
        while True:
            try:
                listening.recv(1 << 16)
            except BlockingIOError:
                return is_told
            except OSError:
                # There was more than the kernel keeps (ENOBUFS).
                is_told = True
            else:
                is_told = True


def _listening(protocol: int, group: int) -> socket.socket:
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        listening.bind((0, 1 << (group - 1)))
    except OSError:
        listening.close()
        raise
    return listening


def _done(netfilter: Netfilter, plan: GuardPlan, news: _News, word: bytes) -> list[str]:
    """What is wrong with the guard after a request."""
    try:
        match word:
            case b"install":
                found = netfilter.install(plan)
                # What it has changed itself is no news; but what somebody else has is not overlooked.
                return netfilter.verify(plan) if news.take() else found
            case b"verify":
                return netfilter.verify(plan)
            case _:
                return ["the request is none; install and verify are"]
    except FlowtapError as error:
        return [str(error)]


def _answer(connection: socket.socket, said: list[str] | str) -> None:
    connection.sendall(json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
