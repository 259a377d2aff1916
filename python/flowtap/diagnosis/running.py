"""Checks of a running tap: its tunnels, what was negotiated, its rights."""

from __future__ import annotations

from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from flowtap.delivery.associations import LIVE, not_covered
from flowtap.delivery.states import TAKEN_DOWN
from flowtap.diagnosis.finding import Finding, Unknown, fail, ok, unknown, warn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowtap.config.tunnels import TunnelSection

__all__ = ["exclusion", "guard", "guard_rules", "negotiated", "rights", "tap", "tunnel_state"]

_WEAK: Final = ("3DES", "DES_", "BLOWFISH", "CAST", "MD5", "SHA1", "MODP_768", "MODP_1024", "MODP_1536")
"""As strongSwan names what is negotiated only where a tunnel is legacy."""
CONNECTING_S: Final = 10.0
"""A tunnel that can come up does so in less, unless its other end is only being started."""
_START: Final = "start it (flowtap run), and look again"


def tap(status: Mapping[str, Any] | Unknown) -> Finding:
    """Whether it runs."""
    if isinstance(status, Unknown):
        return warn("tap", f"does not answer: {status.why}", _START)
    if status.get("error"):
        return fail("tap", f"{status['name']}: {status['error']}", "restart it; its log says more")
    return ok("tap", f"{status['name']}: runs")


def tunnel_state(name: str, tunnel: Mapping[str, Any] | Unknown, now: datetime) -> Finding:
    """Whether a tunnel is up, or may well be in a moment."""
    if isinstance(tunnel, Unknown):
        return unknown("tunnel", tunnel, name)
    what = f"{name}: {tunnel['state']} since {tunnel['since']}: {tunnel['reason']}"
    if tunnel["state"] == "up":
        return ok("tunnel", what)
    age_s = (now - datetime.fromisoformat(tunnel["since"])).total_seconds()
    if tunnel["state"] == "suspect" or (tunnel["state"] == "connecting" and age_s < CONNECTING_S):
        return warn("tunnel", what, "wait some seconds, and look again")
    if tunnel["reason"] == TAKEN_DOWN:
        return fail("tunnel", what, f"flowtap tunnel up {name}")
    return fail("tunnel", what, "flowtap show tunnels, and strongSwan's log, say more")


def guard(name: str, tunnel: Mapping[str, Any] | Unknown) -> list[Finding]:
    """Whether the running tap finds its guard sound."""
    if isinstance(tunnel, Unknown):
        return [unknown("guard", tunnel, name)]
    advice = "flowtap guard install, as root"
    if tunnel["guard_faults"]:
        return [fail("guard", f"{name}: {each}", advice) for each in tunnel["guard_faults"]]
    return [ok("guard", f"{name}: the running tap finds it sound")]


def guard_rules(faults: Sequence[str] | Unknown) -> list[Finding]:
    """Whether the guard's rules are there, as they are listed now."""
    if isinstance(faults, Unknown):
        return [unknown("guard", faults)]
    if faults:
        return [fail("guard", each, "flowtap guard install, as root") for each in faults]
    return [ok("guard", "its rules are there, and none but its own")]


def negotiated(name: str, section: TunnelSection, tunnel: Mapping[str, Any] | Unknown) -> list[Finding]:
    """Whether selectors and algorithms are those that were asked for."""
    if isinstance(tunnel, Unknown):
        return [unknown("negotiated", tunnel, name)]
    children = [each for each in tunnel["ipsec"] if each["state"] in LIVE]
    if not children:
        return [unknown("negotiated", Unknown("there is no association"), name)]
    faults = [
        f"{side}_networks: {each} is not covered by what the other side has agreed to"
        for side, wanted in (("local", section.local_networks), ("remote", section.remote_networks))
        for each in not_covered(wanted, chain.from_iterable(child[side] for child in children))
    ]
    for each in (*children, *tunnel["ike"]):
        if each.get("mode", "TUNNEL") != "TUNNEL" or each.get("protocol", "ESP") != "ESP":
            faults.append(f"{each['protocol']} in mode {each['mode'].lower()} is not what is wanted")
        algorithms = [each.get(key) or "" for key in ("encryption", "integrity", "prf", "dh_group")]
        if "NULL" in algorithms[0]:
            faults.append("nothing is encrypted (NULL)")
        if not section.legacy:
            weak = [
                each
                for each in algorithms
                if each.removeprefix("PRF_").removeprefix("HMAC_").startswith(_WEAK)
            ]
            faults += [f"{each} is no longer recommended" for each in weak]
    if faults:
        advice = "agree with the other side on networks and proposals"
        return [fail("negotiated", f"{name}: {each}", advice) for each in dict.fromkeys(faults)]
    names = " ".join(filter(None, (children[0]["encryption"], children[0]["integrity"])))
    return [ok("negotiated", f"{name}: all networks are covered, {names}")]


def exclusion(status: Mapping[str, Any] | Unknown) -> Finding:
    """Whether the tap has proven that it does not tap its own traffic."""
    if isinstance(status, Unknown):
        return unknown("own traffic", status)
    said = status.get("exclusion")
    if said is None:
        return unknown("own traffic", Unknown("the running tap does not say whether its exclusion is proven"))
    if said == "proven":
        return ok("own traffic", "is excluded; the tap has proven it at its start")
    return fail("own traffic", f"is not excluded: {said}", "do not task this tap; restart it, and report it")


def rights(
    status: Mapping[str, Any] | Unknown, own: Collection[str], *, is_live: bool, has_tunnels: bool
) -> list[Finding]:
    """Whether the rights are there: those of the running tap's broker, else those of who asks."""
    held = own if isinstance(status, Unknown) else status.get("broker_rights", own)
    whose = "whoever runs this" if isinstance(status, Unknown) else "the running tap's broker"
    advice = "run it under the unit of `flowtap config systemd-unit`, or as root"
    findings = []
    for right, use, needed in (
        ("CAP_NET_RAW", "live capture and foreign source addresses", is_live),
        ("CAP_BPF", "the kernel's filter", False),
        ("CAP_NET_ADMIN", "the guard and promiscuous interfaces", has_tunnels),
    ):
        if right in held:
            findings.append(ok("rights", f"{whose} has {right}"))
        else:
            judge = fail if needed else warn
            findings.append(judge("rights", f"{whose} has no {right}, for {use}", advice))
    return findings
