"""Checks of strongSwan: reachable, new enough, complete, and quick to notice a dead peer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowtap.delivery.connection import refuse_old
from flowtap.delivery.retransmission import Retransmission
from flowtap.diagnosis.finding import Finding, Unknown, fail, ok, unknown, warn
from flowtap.errors import TunnelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowtap.config.tunnels import TunnelSection

__all__ = [
    "StrongSwan",
    "connections",
    "daemon",
    "dead_peer",
    "plugins",
    "read_settings",
    "retransmission",
    "userspace_esp",
]

_NEEDED: Final = (("nonce",), ("socket-default", "socket-dynamic"), ("kernel-netlink", "kernel-libipsec"))
"""Plugins without which no tunnel comes up, each with what may stand in its place."""


@dataclass(frozen=True, slots=True)
class StrongSwan:
    """What a daemon says of itself over VICI."""

    daemon: str
    version: str
    plugins: tuple[str, ...]
    connections: tuple[str, ...]


def daemon(found: StrongSwan | Unknown, path: str) -> Finding:
    """Whether it answers, and its version."""
    if isinstance(found, Unknown):
        return fail(
            "strongSwan",
            f"{path}: {found.why}",
            found.advice or "start charon-systemd (systemctl start strongswan), or correct vici_socket",
        )
    try:
        refuse_old({"version": found.version})
    except TunnelError as error:
        return fail("strongSwan", f"{path}: {error}", "install a newer one")
    return ok("strongSwan", f"{path}: {found.daemon} {found.version}")


def userspace_esp(found: StrongSwan | Unknown) -> bool | Unknown:
    """Whether it does ESP itself; the plugin that was loaded first does it."""
    if isinstance(found, Unknown):
        return found
    places = [found.plugins.index(each) for each in _NEEDED[-1] if each in found.plugins]
    return bool(places) and found.plugins[min(places)] == "kernel-libipsec"


def plugins(found: StrongSwan) -> Finding:
    """Whether it has loaded what a tunnel needs."""
    missing = [" or ".join(each) for each in _NEEDED if not set(each) & set(found.plugins)]
    if missing:
        return fail(
            "strongSwan plugins",
            f"not loaded: {', '.join(missing)}",
            "load them in strongswan.conf; install strongswan-libcharon or libcharon-extra-plugins",
        )
    if not {"openssl", "gcrypt", "gmp", "wolfssl", "botan"} & set(found.plugins):
        return warn(
            "strongSwan plugins",
            "none for public keys and elliptic curves is loaded",
            "install libstrongswan-standard-plugins and load openssl",
        )
    if {"kernel-netlink", "kernel-libipsec"} <= set(found.plugins) and userspace_esp(found) is False:
        return warn(
            "strongSwan plugins",
            "kernel-libipsec is loaded behind kernel-netlink, which keeps ESP for the kernel",
            "name only one of them in load, or kernel-libipsec first",
        )
    return ok("strongSwan plugins", f"{len(found.plugins)} loaded, none missing")


def connections(found: StrongSwan, tunnels: Mapping[str, TunnelSection]) -> Finding:
    """Whose connections it has."""
    ours = [name for name in found.connections if name in tunnels]
    others = [name for name in found.connections if name not in tunnels]
    what = f"{len(ours)} of {len(tunnels)} tunnels loaded"
    if others:
        what += f"; not ours: {', '.join(others)}"
    missing = [name for name in tunnels if name not in ours]
    if missing:
        return warn(
            "strongSwan connections",
            f"{what}; not loaded: {', '.join(missing)}",
            "the tap loads them while it runs; nothing else has to",
        )
    return ok("strongSwan connections", what)


# --- how soon a dead peer is noticed ----------------------------------------------------------


_WORD: Final = re.compile(r"#[^\n]*|[{}]|[^\s{}=#]+(?:[ \t]*=[^\n#}]*)?", re.MULTILINE)


def read_settings(text: str) -> dict[str, str]:
    """Reads ``strongswan.conf`` into ``section.section.key``; what is included must stand in its place."""
    settings: dict[str, str] = {}
    sections: list[str] = []
    name = ""
    for word in _WORD.findall(text):
        if word == "{":
            sections.append(name)
        elif word == "}":
            sections = sections[:-1]
        elif "=" in word and not word.startswith("#"):
            key, _, value = word.partition("=")
            settings[".".join((*sections, key.strip()))] = value.strip().strip('"')
        elif not word.startswith("#"):
            name = word
    return settings


def retransmission(settings: Mapping[str, str]) -> Retransmission:
    """What charon-systemd takes: its own section's settings, else those of ``charon``.

    Raises:
        ValueError: A value is no number.
    """

    def value(name: str, otherwise: str) -> str:
        key = f"retransmit_{name}"
        return settings.get(f"charon-systemd.{key}", settings.get(f"charon.{key}", otherwise))

    own = Retransmission()
    return Retransmission(
        int(value("tries", str(own.tries))),
        float(value("timeout", str(own.timeout_s))),
        float(value("base", str(own.base))),
    )


def dead_peer(text: str | Unknown, path: str, tunnels: Mapping[str, TunnelSection]) -> list[Finding]:
    """Whether strongSwan notices a dead peer as soon as each tunnel with IKEv2 wants.

    Args:
        text: ``strongswan.conf`` with everything that it includes.
        path: Where that is.
        tunnels: The tunnels.
    """
    wanted = {name: section for name, section in tunnels.items() if section.ike_version == 2}  # noqa: PLR2004
    if not wanted:
        return []
    if isinstance(text, Unknown):
        return [unknown("dead peer", text)]
    try:
        found = retransmission(read_settings(text))
    except ValueError:
        return [unknown("dead peer", Unknown(f"{path}: retransmit_* are no numbers"))]
    findings = []
    for name, section in wanted.items():
        noticed_s = section.dpd_delay_s + found.given_up_after_s
        wanted_s = section.dead_peer_s
        what = f"tunnel {name}: {path} has it noticed after {noticed_s:.0f} s; dead_peer_s is {wanted_s}"
        # Whatever is no number is not soon enough.
        if not noticed_s <= wanted_s:
            findings.append(
                warn("dead peer", what, "set what `flowtap config strongswan` prints, and restart strongSwan")
            )
        else:
            findings.append(ok("dead peer", what))
    return findings
