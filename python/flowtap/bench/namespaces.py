"""Networks of this machine's own, made for a measurement and removed after it.

Each host is a network namespace; hosts are joined by pairs of interfaces that behave like a cable. Needs root
and the program ip (iproute2).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from flowtap.errors import DataPlaneError, PermissionMissingError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Host", "Network", "missing_right"]

IP = "ip"


def missing_right() -> PermissionMissingError | None:
    """What is missing for a network of one's own; None if nothing is."""
    if os.geteuid() != 0:
        return PermissionMissingError("networks for a measurement need root", right="CAP_SYS_ADMIN")
    if shutil.which(IP) is None:
        return PermissionMissingError(
            "networks for a measurement need the program ip (package iproute2)", right="ip"
        )
    return None


def _ip(*words: str) -> None:
    done = subprocess.run([IP, *words], capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode != 0:
        message = f"ip {' '.join(words)}: {done.stderr.strip()}"
        raise DataPlaneError(message)


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a network.

    Attributes:
        name: Its namespace.
    """

    name: str

    @property
    def inside(self) -> list[str]:
        """Words in front of a command that is to run there."""
        return [IP, "netns", "exec", self.name]

    def set_up(self, interface: str, *addresses: str) -> None:
        """Gives an interface its addresses and switches it on."""
        for address in addresses:
            _ip("-n", self.name, "address", "add", address, "dev", interface)
        _ip("-n", self.name, "link", "set", interface, "up")

    def ip(self, *words: str) -> None:
        """Runs ip there."""
        _ip("-n", self.name, *words)


@dataclass(slots=True)
class Network:
    """Hosts and cables between them; a context manager that leaves nothing behind."""

    _hosts: list[Host] = field(default_factory=list)

    def __enter__(self) -> Self:
        missing = missing_right()
        if missing is not None:
            raise missing
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Interfaces go with the namespaces that they are in.
        for host in self._hosts:
            with contextlib.suppress(DataPlaneError):
                _ip("netns", "delete", host.name)
        self._hosts.clear()

    def host(self) -> Host:
        """A new host, alone, with its loopback interface on and no IPv6 of its own accord."""
        host = Host(f"flowtap-bench-{secrets.token_hex(4)}")
        _ip("netns", "add", host.name)
        self._hosts.append(host)
        for which in ("all", "default"):
            # Neighbour and router discovery would be frames that nobody sent.
            setting = f"net.ipv6.conf.{which}.disable_ipv6=1"
            words = [*host.inside, "sysctl", "-q", "-w", setting]
            subprocess.run(words, check=False, capture_output=True)  # noqa: S603 - ourselves
        host.set_up("lo")
        return host

    def cable(self, here: Host, interface: str, there: Host, other: str) -> None:
        """Joins two hosts; the interfaces are off and have no addresses."""
        peer = ("type", "veth", "peer", "name", other, "netns", there.name)
        _ip("-n", here.name, "link", "add", interface, *peer)
