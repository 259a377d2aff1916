"""A dead peer is noticed in time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.config.tunnels import TunnelSection
from flowtap.delivery.retransmission import Retransmission, strongswan_settings


def section(dpd_delay_s: int, dead_peer_s: int) -> TunnelSection:
    return TunnelSection.model_validate(
        {
            "local_gateway": "192.0.2.1",
            "remote_gateway": "192.0.2.2",
            "local_networks": ["192.0.2.1"],
            "remote_networks": ["198.51.100.0/24"],
            "pre_shared_key_file": "psk",
            "dpd_delay_s": dpd_delay_s,
            "dead_peer_s": dead_peer_s,
        }
    )


def test_strongswan_counts_like_this() -> None:
    # What its daemon needed when it was measured, and what its manual says of its own settings.
    assert Retransmission(2, 1.0, 1.5).given_up_after_s == 4.75
    assert round(Retransmission().given_up_after_s) == 165
    assert Retransmission(3, 2.0, 1.0).given_up_after_s == 8


@given(st.integers(1, 60), st.integers(1, 598))
def test_the_peer_is_given_up_in_time(dpd_delay_s: int, more_s: int) -> None:
    tunnel = section(dpd_delay_s, min(dpd_delay_s + more_s, 600))
    text = strongswan_settings([("/run/charon.vici", tunnel)], "flowtap")
    tries, timeout_s, base = (
        float(re.search(rf"retransmit_{name} = ([0-9.]+)", text)[1])  # type: ignore[index]  # it is there
        for name in ("tries", "timeout", "base")
    )
    given_up_s = sum(timeout_s * base**number for number in range(int(tries) + 1))
    budget_s = tunnel.dead_peer_s - tunnel.dpd_delay_s
    assert given_up_s < budget_s
    # Not much sooner than need be either, as far as strongSwan would wait by itself.
    assert given_up_s > min(budget_s * 0.85, 83)
    assert tries >= 1
    assert timeout_s >= min(1.0, budget_s * 0.35)


def test_the_shortest_time_counts_and_each_daemon_has_its_settings() -> None:
    tunnels = [
        ("/run/a.vici", section(2, 15)),
        ("/run/a.vici", section(3, 10)),
        ("/run/b.vici", section(2, 30)),
    ]
    text = strongswan_settings(tunnels, "tap")
    assert text.count("charon-systemd {") == text.count("group = tap") == 2
    first, second = text.split("socket = unix:///run/a.vici")
    assert "within dead_peer_s = 10" in first
    assert "within dead_peer_s = 30" in second


@pytest.mark.parametrize(("budget_s", "tries"), [(1, 1), (4, 1), (6, 2), (13, 3), (20, 4), (60, 5)])
def test_tries_are_given_up_for_patience(budget_s: float, tries: int) -> None:
    assert Retransmission.within(budget_s).tries == tries
