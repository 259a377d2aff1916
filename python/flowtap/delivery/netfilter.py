"""The guard as the kernel has it: installs, looks and removes, with the programs ``nft`` and ``ip``.

For the guard's process and for who is root at a terminal. Both programs are started by their path and without
any environment, so that nothing of the caller's decides what they do.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowtap.delivery.guard import PREFERENCE, TABLE, removal, rules, ruleset
from flowtap.delivery.guard_faults import faults, stale_rules
from flowtap.errors import DataPlaneError, PermissionMissingError

if TYPE_CHECKING:
    from flowtap.delivery.guard import GuardPlan, Network

__all__ = ["PLACES", "Netfilter", "find_program"]

PLACES: Final = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
"""Where programs are looked for, whatever the caller's ``PATH`` is."""
PROGRAM_S: Final = 10
"""How long one program may take; each needs some milliseconds."""
RIGHT: Final = "CAP_NET_ADMIN"
SYSTEM: Final = Path("/sys/class/net")
ETHERNET: Final = 1
"""``ARPHRD_ETHER``; tunnels have no link header (``ARPHRD_NONE``)."""
_NO_SUCH: Final = "No such file or directory"
_FORBIDDEN: Final = "Operation not permitted"


class Netfilter:
    """The guard's rules in the network namespace of this process."""

    def __init__(self) -> None:
        self._programs = {name: find_program(name) for name in ("nft", "ip")}

    def verify(self, plan: GuardPlan) -> list[str]:
        """What is not as it has to be.

        Raises:
            DataPlaneError: Nobody can look.
            PermissionMissingError: This process may not.
        """
        return [*faults(plan, self._table(), self._rules()), *_open_interfaces(plan)]

    def install(self, plan: GuardPlan) -> list[str]:
        """Puts the guard in place, and looks at it. A sound one is left alone, so that its counters go on.

        Returns:
            What is not as it has to be all the same.

        Raises:
            DataPlaneError: The system refuses.
            PermissionMissingError: This process may not.
        """
        if not self.verify(plan):
            return []
        self._run("nft", "-f", "-", data=ruleset(plan))
        there = self._rules()
        self._change("delete", stale_rules(plan, there))
        # From no plan at all everything is stale: what is there already.
        known = set(stale_rules(None, there))
        self._change("add", [each for each in rules(plan) if each not in known])
        return self.verify(plan)

    def remove(self) -> None:
        """Takes everything of it away; what lies behind tunnels can then be reached in clear.

        Raises:
            DataPlaneError: The system refuses.
            PermissionMissingError: This process may not.
        """
        self._run("nft", "-f", "-", data=removal())
        self._change("delete", stale_rules(None, self._rules()))

    def _table(self) -> object:
        try:
            return _read("nft", self._run("nft", "-j", "list", "table", "inet", TABLE))
        except _ProgramError as failure:
            if _NO_SUCH in failure.said:
                return None
            raise

    def _rules(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        for family in ("-4", "-6"):
            value = _read("ip", self._run("ip", family, "-j", "rule", "show") or "[]")
            if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
                raise DataPlaneError("ip: the rules of the routing policy cannot be understood")
            listed += value
        return listed

    def _change(self, verb: str, networks: list[Network]) -> None:
        for version, family in ((4, "-4"), (6, "-6")):
            lines = [
                f"rule {verb} pref {PREFERENCE} to {each} unreachable\n"
                for each in networks
                if each.version == version
            ]
            if lines:
                self._run("ip", family, "-batch", "-", data="".join(lines))

    def _run(self, name: str, *words: str, data: str = "") -> str:
        program = self._programs[name]
        if program is None:
            raise DataPlaneError(f"{name} is not installed in {', '.join(PLACES)}; the guard needs it")
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program, and words that were made here
                [program, *words],
                input=data.encode(),
                capture_output=True,
                check=False,
                cwd="/",
                env={},
                timeout=PROGRAM_S,
            )
        except subprocess.TimeoutExpired:
            raise DataPlaneError(f"{name} did not end within {PROGRAM_S} s") from None
        except OSError as error:
            raise DataPlaneError(f"{program}: cannot be started: {error.strerror}") from None
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        if _FORBIDDEN in said:
            message = (
                f"{name}: the guard needs the right {RIGHT}, which this process does not have;"
                " `flowtap guard install` as root puts it in place"
            )
            raise PermissionMissingError(message, right=RIGHT)
        raise _ProgramError(name, said)


def _open_interfaces(plan: GuardPlan) -> list[str]:
    """Interfaces of tunnels that protect nothing: the guard lets everything through them."""
    return [
        f"tunnel {tunnel.name}: {tunnel.interface} is an Ethernet device, through which everything would"
        " leave in clear; the tunnel's own XFRM interface or TUN device is right, or none"
        for tunnel in plan.tunnels
        if tunnel.interface is not None and _kind(tunnel.interface) == ETHERNET
    ]


def _kind(interface: str) -> int | None:
    """The kernel's number for what an interface carries (ARPHRD); None where there is none."""
    try:
        return int((SYSTEM / interface / "type").read_text())
    except (OSError, ValueError):
        return None


class _ProgramError(DataPlaneError):
    """A program has ended with an error."""

    def __init__(self, name: str, said: str) -> None:
        line = next(iter(said.splitlines()), "it gave no reason")
        super().__init__(f"{name}: {line}")
        self.said = said


def find_program(name: str) -> str | None:
    """The path of one of the system's programs; None where it is not installed."""
    candidates = (f"{place}/{name}" for place in PLACES)
    return next((each for each in candidates if os.access(each, os.X_OK)), None)


def _read(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        # nft 1.0.6 writes no JSON for a dormant table, for instance.
        return f"{name} wrote something that is no JSON"
