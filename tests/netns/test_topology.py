"""The place where tunnels are tested is honest: what leaks is delivered and seen, what is cut does not pass."""

from __future__ import annotations

from typing import Any

import pytest
from net import until
from topology import (
    MD,
    OPERATOR_GATEWAY,
    PASSWORD,
    REMOTE_GATEWAY,
    REMOTE_NETWORK,
    TAP,
    Ipsec,
    Profile,
    ipsec,
    needs_root,
)

pytestmark = needs_root()
__all__ = ["ipsec"]

_PROPOSALS = {
    "how_to": ("1", "3des-sha1-modp1024", "3des-sha1"),
    "modern": ("2", "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
}


def test_a_leak_is_delivered_and_seen(ipsec: Ipsec) -> None:
    observer = ipsec.observer()
    assert ipsec.passes()
    assert len(observer.in_clear()) == 2
    assert f"{TAP}:None > {MD}:None" in observer.in_clear()[0]
    assert observer.protected() == []
    ipsec.cut()
    assert not ipsec.passes()
    ipsec.heal()
    assert ipsec.passes()


@pytest.mark.parametrize("profile", _PROPOSALS)
def test_two_daemons_protect_what_passes(ipsec: Ipsec, profile: Profile) -> None:
    ipsec.load_peer(profile)
    observer = ipsec.observer()
    version, ike, esp = _PROPOSALS[profile]
    child: dict[str, Any] = {"local_ts": [f"{TAP}/32"], "remote_ts": [REMOTE_NETWORK], "esp_proposals": [esp]}
    with ipsec.operator_charon.session() as session:
        owners = [OPERATOR_GATEWAY, REMOTE_GATEWAY]
        session.load_shared({"id": "psk", "type": "IKE", "data": PASSWORD, "owners": owners})
        session.load_conn(
            {
                "md": {
                    "version": version,
                    "local_addrs": [OPERATOR_GATEWAY],
                    "remote_addrs": [REMOTE_GATEWAY],
                    "proposals": [ike],
                    "local": {"auth": "psk", "id": OPERATOR_GATEWAY},
                    "remote": {"auth": "psk", "id": REMOTE_GATEWAY},
                    "children": {"content": {**child, "start_action": "trap|start"}},
                }
            }
        )
        until("there is a child", lambda: any(each["md"]["child-sas"] for each in session.list_sas()))
    assert ipsec.passes()
    assert observer.in_clear() == []
    assert len(observer.protected()) > 2
