"""The interfaces and routing instances of this element, as control sources name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowtap.control.ports import ScopeFault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowtap.dtcp import Scope

__all__ = ["Places"]

_SYSTEM = Path("/sys/class/net")
_NAME_OCTETS: Final = 15
"""Of an interface (IFNAMSIZ, without its NUL)."""


class Places:
    """What may be named in a scope.

    Args:
        interfaces: What is tapped, by the system's names.
        names: Other names for them, such as those that a router had in this place.
        vrfs: Interfaces of each routing instance.
    """

    def __init__(
        self,
        interfaces: Sequence[str],
        names: Mapping[str, str] | None = None,
        vrfs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._interfaces = tuple(interfaces)
        self._names: dict[str, str] = dict(names or {})
        self._vrfs = {name: tuple(members) for name, members in (vrfs or {}).items()}

    def inputs(self, scope: Scope) -> tuple[str, ...]:
        """Interfaces that packets come in on; none where that does not matter.

        Raises:
            ScopeFault: One is not tapped.
        """
        if scope.vrf is not None:
            return self._members(scope.vrf)
        return self._known("X-JTap-Input-Interface", scope.input_interfaces)

    def outputs(self, scope: Scope) -> tuple[str, ...]:
        """Interfaces that packets go out on; none where that does not matter.

        Raises:
            ScopeFault: One is not tapped.
        """
        return self._known("X-JTap-Output-Interface", scope.output_interfaces)

    def _known(self, parameter: str, given: Sequence[str]) -> tuple[str, ...]:
        found = []
        for name in given:
            interface = self._interface(name)
            if interface is None:
                raise ScopeFault(
                    parameter, ",".join(given), f"{parameter}: {name} is no interface of this element"
                )
            found.append(interface)
        return tuple(dict.fromkeys(found))

    def _interface(self, given: str) -> str | None:
        """The system's name; a name without a unit has the unit 0 [DTCP App. B]."""
        base, _, unit = given.rpartition(".")
        if not base or not unit.isdecimal():
            base, unit = given, "0"
        candidates = [given, f"{base}.{unit}"]
        if unit == "0":
            candidates.append(base)
        for name in candidates:
            interface = self._names.get(name, name)
            if interface in self._interfaces:
                return interface
        # A unit of an interface that has another name here.
        interface = f"{self._names.get(base, base)}.{unit}"
        return interface if interface in self._interfaces else None

    def _members(self, vrf: str) -> tuple[str, ...]:
        members = self._vrfs.get(vrf)
        if members is None:
            members = tuple(each for each in _enslaved(vrf) if each in self._interfaces)
        if not members:
            raise ScopeFault(
                "X-JTap-VRF-Name", vrf, "X-JTap-VRF-Name: no such routing instance has an interface here"
            )
        return members


def _enslaved(vrf: str) -> list[str]:
    """The interfaces of one of the kernel's VRF devices."""
    # What is too long or leads elsewhere is no interface's name (dev_valid_name in the kernel).
    if not vrf or len(vrf.encode()) > _NAME_OCTETS or "/" in vrf or "\0" in vrf or vrf in {".", ".."}:
        return []
    device = _SYSTEM / vrf
    try:
        kind = (device / "uevent").read_text().splitlines()
    except OSError:
        return []
    if "DEVTYPE=vrf" not in kind:
        return []
    return sorted(link.name.removeprefix("lower_") for link in device.glob("lower_*"))
