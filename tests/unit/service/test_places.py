"""Interfaces and routing instances, as control sources name them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flowtap.control.ports import ScopeFault
from flowtap.dtcp import Scope
from flowtap.service import places
from flowtap.service.places import Places

PLACES = Places(
    ["eth0", "eth0.7", "eth1", "lo"],
    {"ge-0/0/0": "eth0", "ge-0/0/1.0": "eth1", "xe-1/0/0.5": "lo"},
    {"RED": ["eth1", "lo"]},
)


@pytest.mark.ledger("T-194")
@pytest.mark.parametrize(
    ("given", "interface"),
    [
        ("eth0", "eth0"),
        ("eth0.0", "eth0"),
        ("eth0.7", "eth0.7"),
        ("ge-0/0/0", "eth0"),
        ("ge-0/0/0.0", "eth0"),
        ("ge-0/0/0.7", "eth0.7"),
        ("ge-0/0/1", "eth1"),
        ("ge-0/0/1.0", "eth1"),
        ("xe-1/0/0.5", "lo"),
    ],
)
def test_a_name_without_a_unit_has_the_unit_0(given: str, interface: str) -> None:
    assert PLACES.inputs(Scope((given,))) == (interface,)
    assert PLACES.outputs(Scope(output_interfaces=(given, given))) == (interface,)


@pytest.mark.ledger("T-194")
@pytest.mark.parametrize(
    "given", ["eth2", "eth0.8", "eth1.7", "ge-0/0/0.8", "xe-1/0/0", "", ".", ".0", "eth0."]
)
def test_an_interface_that_is_not_tapped_is_none(given: str) -> None:
    for scope, parameter in (
        (Scope(("eth0", given)), "X-JTap-Input-Interface"),
        (Scope(output_interfaces=(given,)), "X-JTap-Output-Interface"),
    ):
        with pytest.raises(ScopeFault, match="is no interface of this element") as caught:
            PLACES.inputs(scope) or PLACES.outputs(scope)
        assert caught.value.name == parameter
        assert given in caught.value.value


@pytest.mark.ledger("T-193")
def test_routing_instances() -> None:
    assert PLACES.inputs(Scope(vrf="RED")) == ("eth1", "lo")
    assert PLACES.outputs(Scope(vrf="RED")) == ()
    # An interface is none, and neither is what only looks like a path.
    # Nor is what no file could be called.
    for name in ("BLUE", "red", "lo", "", ".", "..", "../net", "lo/..", "9" * 5_000, "RED\0"):
        with pytest.raises(ScopeFault, match="no such routing instance"):
            PLACES.inputs(Scope(vrf=name))


def test_members_are_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sysfs shows a VRF device; not every kernel has them."""
    monkeypatch.setattr(places, "_SYSTEM", tmp_path)
    device = tmp_path / "BLUE"
    device.mkdir()
    (device / "uevent").write_text("DEVTYPE=vrf\nINTERFACE=BLUE\nIFINDEX=9\n")
    for name in ("lower_eth1", "lower_eth9"):
        (device / name).mkdir()
    assert PLACES.inputs(Scope(vrf="BLUE")) == ("eth1",)
    (device / "uevent").write_text("DEVTYPE=bridge\n")
    with pytest.raises(ScopeFault):
        PLACES.inputs(Scope(vrf="BLUE"))


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_vrf_of_the_kernel() -> None:
    name = f"ftv{os.getpid() % 100_000}"
    member = f"ftm{os.getpid() % 100_000}"
    link = ["ip", "link"]
    made = subprocess.run(
        [*link, "add", name, "type", "vrf", "table", "7777"], check=False, capture_output=True
    )
    if made.returncode != 0:
        # The refusal is what this kernel, built without such devices, must give.
        assert "Unknown device type" in made.stderr.decode() or "not supported" in made.stderr.decode()
        with pytest.raises(ScopeFault):
            Places([member]).inputs(Scope(vrf=name))
        return
    try:
        subprocess.run([*link, "add", member, "type", "dummy"], check=True)
        try:
            here = Places([member, "eth0"])
            with pytest.raises(ScopeFault):
                here.inputs(Scope(vrf=name))
            subprocess.run([*link, "set", member, "master", name], check=True)
            assert here.inputs(Scope(vrf=name)) == (member,)
        finally:
            subprocess.run([*link, "delete", member], check=True)
    finally:
        subprocess.run([*link, "delete", name], check=True)
