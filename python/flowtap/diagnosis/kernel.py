"""Checks of the kernel: is everything there that a tap and its tunnels stand on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from flowtap.diagnosis.finding import Finding, Unknown, fail, ok, unknown, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["esp", "nftables", "reverse_path", "tun", "version", "xfrm_interface"]

_OLDEST: Final = (4, 18)
"""The first one with segmentation of UDP."""
_WITH_BPF_RIGHT: Final = (5, 8)
"""The first one that knows the right CAP_BPF."""
_ABSENT: Final = re.compile("Requested type not found|Protocol not supported|Unknown device type")
"""What the kernel, or ``ip`` for it, says of a feature that it does not have."""
_NO_NFTABLES: Final = re.compile("not supported|not implemented")


def version(release: str) -> Finding:
    """The kernel's version, as ``uname -r`` says it."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        return unknown("kernel", Unknown(f"the release {release!r} is no version"))
    number = (int(found[1]), int(found[2]))
    if number < _OLDEST:
        return fail("kernel", f"Linux {release}", "Linux 5.8 or newer is right")
    if number < _WITH_BPF_RIGHT:
        return warn(
            "kernel",
            f"Linux {release} does not know the right CAP_BPF, so there is no filter in the kernel",
            "Linux 5.8 or newer is right",
        )
    return ok("kernel", f"Linux {release}")


def feature(probe: str | Unknown, config: str | Unknown, option: str) -> bool | Unknown:
    """Whether the kernel has something: because it was tried, or as it was built.

    Args:
        probe: What the attempt said; empty where it worked.
        config: How the kernel was built.
        option: The option that stands for it there.
    """
    if isinstance(probe, str):
        if not probe:
            return True
        if _ABSENT.search(probe):
            return False
    if isinstance(config, str):
        found = re.search(rf"^{option}=([ym])$", config, re.MULTILINE)
        if found is not None and found[1] == "y":
            return True
        if found is None and re.search(rf"^# {option} is not set$", config, re.MULTILINE):
            return False
    if isinstance(probe, Unknown):
        return probe
    return Unknown(f"the attempt ended with: {probe}")


def esp(
    probe: str | Unknown, config: str | Unknown, *, userspace: bool | Unknown, version: int = 4
) -> Finding:
    """ESP, which tunnels are made of.

    Args:
        probe: What adding a state in a network namespace of its own said; empty where it worked.
        config: How the kernel was built.
        userspace: Whether strongSwan brings its own ESP.
        version: Of the gateways' addresses.
    """
    option, module = ("CONFIG_INET_ESP", "esp4") if version == 4 else ("CONFIG_INET6_ESP", "esp6")  # noqa: PLR2004
    has = feature(probe, config, option)
    if has is True:
        return ok("kernel ESP", f"there for IPv{version}")
    if isinstance(has, Unknown):
        return unknown("kernel ESP", has)
    what = f"this kernel has no ESP for IPv{version} ({option})"
    advice = f"a kernel with {option} (module {module}) is right; modprobe {module} shows whether it has one"
    if userspace is True:
        return warn(
            "kernel ESP", f"{what}; strongSwan's kernel-libipsec does it, which is slow and for tests", advice
        )
    return fail("kernel ESP", what, advice)


def xfrm_interface(probe: str | Unknown, config: str | Unknown, *, wanted: bool) -> Finding:
    """XFRM interfaces, which a tunnel may have."""
    has = feature(probe, config, "CONFIG_XFRM_INTERFACE")
    if has is True:
        return ok("XFRM interface", "there")
    if isinstance(has, Unknown):
        return unknown("XFRM interface", has)
    if wanted:
        return warn(
            "XFRM interface",
            "this kernel has none (CONFIG_XFRM_INTERFACE), and a tunnel names an interface",
            "leave [tunnel.NAME] interface out, unless it names the TUN device of kernel-libipsec",
        )
    return ok("XFRM interface", "not there, and no tunnel names an interface")


def tun(*, exists: bool, userspace: bool | Unknown) -> Finding:
    """The TUN device, which kernel-libipsec stands on."""
    if exists:
        return ok("TUN", "/dev/net/tun is there")
    if userspace is False:
        return ok("TUN", "/dev/net/tun is not there, and strongSwan leaves ESP to the kernel")
    if userspace is True:
        return fail(
            "TUN", "/dev/net/tun is not there, and kernel-libipsec needs it", "modprobe tun makes it, as root"
        )
    return unknown("TUN", Unknown("/dev/net/tun is not there; whether strongSwan needs it is not known"))


def nftables(ruleset: object | Unknown, *, needed: bool) -> Finding:
    """nftables, which the guard is made of."""
    if not isinstance(ruleset, Unknown):
        return ok("nftables", "there")
    if needed and _NO_NFTABLES.search(ruleset.why):
        return fail("nftables", ruleset.why, "a kernel with CONFIG_NF_TABLES and CONFIG_NFT_XFRM is right")
    return unknown("nftables", ruleset)


def reverse_path(settings: Mapping[str, str | Unknown], interface: str) -> Finding:
    """The reverse-path filter on the interface that unpacked packets come in on.

    Args:
        settings: ``rp_filter`` of ``all`` and of the interface.
        interface: Its name.
    """
    numbers = []
    for name in ("all", interface):
        text = settings[name]
        if isinstance(text, Unknown):
            return unknown("reverse path", text, f"rp_filter of {name}")
        numbers.append(int(text))
    if max(numbers) == 1:
        return warn(
            "reverse path",
            f"strict on {interface}: what comes through the tunnel is dropped unless the route back leads"
            " through the same interface",
            f"sysctl -w net.ipv4.conf.{interface}.rp_filter=2",
        )
    return ok("reverse path", f"not strict on {interface}")
