"""Two tunnels between the same two gateways: each has its own association, and its own gate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from net import show, until
from tapped import COPIES_PORT, SUBJECT, Tapped, toml
from topology import (
    OPERATOR_GATEWAY,
    PASSWORD,
    PROPOSALS,
    REMOTE_GATEWAY,
    REMOTE_NETWORK,
    TAP,
    Ipsec,
    Profile,
    ipsec,
    needs_root,
)

pytestmark = [*needs_root(), pytest.mark.timeout(120)]
__all__ = ["ipsec"]

OTHER_TAP, OTHER_NETWORK, OTHER_MD = "100.100.100.102", "2.2.3.0/27", "2.2.3.2"


def extend(ipsec: Ipsec) -> None:
    """A second source here, and a second network there."""
    net = ipsec.net
    net.run(ipsec.operator, "ip", "addr", "add", f"{OTHER_TAP}/32", "dev", "lo")
    net.run(ipsec.gateway, "ip", "addr", "add", "2.2.3.1/27", "dev", "ttp1")
    net.run(ipsec.md, "ip", "addr", "add", f"{OTHER_MD}/27", "dev", "md0")
    net.run(ipsec.internet, "ip", "route", "add", OTHER_NETWORK, "via", "203.0.113.2")


def load_peer(ipsec: Ipsec, profile: Profile) -> None:
    """The gateway takes both networks over one connection, as gateways do that know each other by address."""
    version, ike, esp = PROPOSALS[profile]
    children = {
        name: {"mode": "tunnel", "local_ts": [there], "remote_ts": [f"{here}/32"], "esp_proposals": [esp]}
        for name, there, here in (("a", REMOTE_NETWORK, TAP), ("b", OTHER_NETWORK, OTHER_TAP))
    }
    with ipsec.gateway_charon.session() as session:
        owners = [OPERATOR_GATEWAY, REMOTE_GATEWAY]
        session.load_shared({"id": "psk", "type": "IKE", "data": PASSWORD, "owners": owners})
        connection: dict[str, Any] = {
            "version": version,
            "local_addrs": [REMOTE_GATEWAY],
            "remote_addrs": [OPERATOR_GATEWAY],
            "proposals": [ike],
            "mobike": "no",
            "local": {"auth": "psk", "id": REMOTE_GATEWAY},
            "remote": {"auth": "psk", "id": OPERATOR_GATEWAY},
            "children": children,
        }
        session.load_conn({"operator": connection})


@pytest.mark.parametrize("profile", ["how_to", "modern"])
def test_both_come_up_and_one_does_not_take_the_other_down(
    ipsec: Ipsec, tmp_path: Path, profile: Profile
) -> None:
    extend(ipsec)
    load_peer(ipsec, profile)
    observer = ipsec.observer()
    tapped = Tapped(ipsec, tmp_path, profile)
    values = ipsec.section(
        profile, interface="ipsec0", local_networks=[f"{OTHER_TAP}/32"], remote_networks=[OTHER_NETWORK]
    )
    with (tmp_path / "flowtap.toml").open("a") as more:
        more.write("\n[tunnel.two]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in values.items()))
    tapped.start()

    def states() -> dict[str, str]:
        found = show(tmp_path, "security-associations")["tunnels"]
        return {each["name"]: each["state"] for each in found}

    until("both are up", lambda: states() == {"ttp": "up", "two": "up"}, 15)
    # Neither has ended the other at the far end without a word.
    time.sleep(6)
    assert states() == {"ttp": "up", "two": "up"}
    assert "is down" not in tapped.log
    tapped.mediate()
    tapped.add(f"Source-Address: {SUBJECT}")
    tapped.send(20)
    assert tapped.until_delivered()["exported"] == 20
    assert ipsec.net.run(ipsec.operator, "ping", "-c1", "-W2", "-I", OTHER_TAP, OTHER_MD)
    # What the one may send from the other may not.
    with pytest.raises(AssertionError, match="were refused"):
        tapped.add(f"Source-Address: {SUBJECT}", source=OTHER_TAP, cdest="md2", port=COPIES_PORT + 1)
    expected = [*range(20)]
    if profile == "modern":
        # A gateway with IKEv1 may take the second association for the first one's successor, and end both.
        with ipsec.operator_charon.session() as session:
            for _ in session.terminate({"ike": "two", "timeout": "3000"}):
                pass
        tapped.send(20)
        assert tapped.until_delivered()["exported_in_doubt"] == 0
        until("both are up", lambda: states() == {"ttp": "up", "two": "up"}, 15)
        expected *= 2
    assert observer.in_clear() == []
    tapped.end()
    assert tapped.arrived() == expected
