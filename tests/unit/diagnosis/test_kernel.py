from __future__ import annotations

import pytest

from flowtap.diagnosis.clock import Discipline, clock
from flowtap.diagnosis.finding import Unknown, Verdict
from flowtap.diagnosis.kernel import esp, nftables, reverse_path, tun, version, xfrm_interface

NOT_ROOT = Unknown("only root can try it", "run flowtap doctor as root")
CONFIG = (
    "CONFIG_XFRM=y\n# CONFIG_XFRM_INTERFACE is not set\n# CONFIG_INET_ESP is not set\nCONFIG_INET6_ESP=m\n"
)
# What iproute2 6.1 says on a kernel without the feature.
NO_ESP = "Error: Requested type not found."
NO_INTERFACE = "Error: Unknown device type."


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("6.18.44-fc-v595", "ok"),
        ("5.8.0", "ok"),
        ("5.4.0-150-generic", "warn"),
        ("4.18.0-553.el8", "warn"),
        ("3.10.0-1160.el7.x86_64", "fail"),
        ("unreleased", "unknown"),
    ],
)
def test_version(release: str, verdict: str) -> None:
    assert version(release).verdict == verdict


@pytest.mark.parametrize(
    ("probe", "config", "verdict"),
    [
        ("", CONFIG, "ok"),
        (NO_ESP, Unknown("no such file"), "fail"),
        (NOT_ROOT, CONFIG, "fail"),
        (NOT_ROOT, "CONFIG_INET_ESP=y\n", "ok"),
        # A module may be there or not; only who tries it knows.
        (NOT_ROOT, "CONFIG_INET_ESP=m\n", "unknown"),
        (NOT_ROOT, "", "unknown"),
        (NOT_ROOT, Unknown("no such file"), "unknown"),
        ("RTNETLINK answers: Function not implemented", "CONFIG_INET_ESP=m\n", "unknown"),
    ],
)
def test_esp(probe: str | Unknown, config: str | Unknown, verdict: str) -> None:
    finding = esp(probe, config, userspace=False)
    assert finding.verdict == verdict
    assert bool(finding.advice) == (
        verdict == "fail" or (isinstance(probe, Unknown) and verdict == "unknown")
    )


def test_esp_of_strongswan_itself_and_of_the_other_family() -> None:
    assert esp(NO_ESP, CONFIG, userspace=True).verdict is Verdict.WARN
    assert esp(NO_ESP, CONFIG, userspace=Unknown("no answer")).verdict is Verdict.FAIL
    finding = esp(NO_ESP, CONFIG, userspace=False, version=6)
    assert "CONFIG_INET6_ESP (module esp6)" in finding.advice


def test_xfrm_interfaces() -> None:
    assert xfrm_interface("", CONFIG, wanted=True).verdict is Verdict.OK
    assert xfrm_interface(NO_INTERFACE, CONFIG, wanted=True).verdict is Verdict.WARN
    assert xfrm_interface(NO_INTERFACE, CONFIG, wanted=False).verdict is Verdict.OK
    assert xfrm_interface(NOT_ROOT, CONFIG, wanted=True).verdict is Verdict.WARN
    assert xfrm_interface(NOT_ROOT, "", wanted=True).verdict is Verdict.UNKNOWN


def test_tun_and_nftables() -> None:
    assert tun(exists=True, userspace=True).verdict is Verdict.OK
    assert tun(exists=False, userspace=True).verdict is Verdict.FAIL
    assert tun(exists=False, userspace=False).verdict is Verdict.OK
    assert tun(exists=False, userspace=Unknown("no answer")).verdict is Verdict.UNKNOWN
    assert nftables({}, needed=True).verdict is Verdict.OK
    no_kernel = Unknown("nft: Error: cache initialization failed: Protocol not supported")
    assert nftables(no_kernel, needed=True).verdict is Verdict.FAIL
    no_right = Unknown("nft: Operation not permitted (you must be root)")
    assert nftables(no_right, needed=True).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("everywhere", "here", "verdict"),
    [("0", "0", "ok"), ("1", "0", "warn"), ("1\n", "2\n", "ok"), ("0", "1", "warn")],
)
def test_the_stricter_of_both_settings_counts_unless_one_is_loose(
    everywhere: str, here: str, verdict: str
) -> None:
    assert reverse_path({"all": everywhere, "eth0": here}, "eth0").verdict == verdict
    unread = reverse_path({"all": everywhere, "eth0": Unknown("no such file")}, "eth0")
    assert unread.verdict is Verdict.UNKNOWN


def test_clock() -> None:
    assert clock(Discipline(0, 0x2001, 12_000)).verdict is Verdict.OK
    assert clock(Discipline(5, 0x40, 16_000_000)).verdict is Verdict.WARN
    assert clock(Discipline(0, 0x40, 500)).verdict is Verdict.WARN
    assert "2.5 s" in clock(Discipline(0, 1, 2_500_000)).what
    assert clock(Unknown("this system has no adjtimex")).verdict is Verdict.UNKNOWN
