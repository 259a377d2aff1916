"""What is in doubt when a gate is shut is never less than what was lost, whichever way it was lost."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from test_tunnel import Keep, Keeper, keep
from topology import Ipsec, ipsec, needs_root

pytestmark = [*needs_root(), pytest.mark.timeout(120)]
__all__ = ["ipsec", "keep"]


def shut_after(keeper: Keeper, since_s: float, seconds: float = 30) -> dict[str, Any]:
    """Waits until the gate is shut; the first time after a moment."""

    def found() -> list[dict[str, Any]]:
        return [each for each in keeper.said if each.get("gate") == "shut" and each["at_s"] > since_s]

    keeper.until("the gate is shut", lambda: bool(found()), seconds)
    return found()[0]


def test_a_path_that_is_cut_towards_the_gateway_alone(ipsec: Ipsec, keep: Keep) -> None:
    """The other side asks, and asks again, because it gets no answer: so there is no silence to ask in."""
    ipsec.load_peer("modern", dpd_delay="1s")
    keeper = keep("modern", dead_peer_s=8)
    keeper.until_open()
    time.sleep(2.5)
    cut_s = time.monotonic()
    ipsec.cut("gateway")
    shut = shut_after(keeper, cut_s)
    assert shut["in_doubt_s"] >= shut["at_s"] - cut_s
    ipsec.heal()
    keeper.until_open(60)


def test_a_gateway_that_hangs(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern", dead_peer_s=8)
    keeper.until_open()
    time.sleep(2.5)
    hung_s = time.monotonic()
    ipsec.gateway_charon.signal(signal.SIGSTOP)
    try:
        shut = shut_after(keeper, hung_s)
    finally:
        ipsec.gateway_charon.signal(signal.SIGCONT)
    assert shut["in_doubt_s"] >= shut["at_s"] - hung_s
    keeper.until_open(60)


def test_a_path_that_is_cut_while_strongswan_hangs(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern", dead_peer_s=8)
    keeper.until_open()
    time.sleep(2.5)
    cut_s = time.monotonic()
    ipsec.operator_charon.signal(signal.SIGSTOP)
    ipsec.cut()
    time.sleep(4)
    ipsec.operator_charon.signal(signal.SIGCONT)
    shut = shut_after(keeper, cut_s)
    assert shut["in_doubt_s"] >= shut["at_s"] - cut_s
    ipsec.heal()
    keeper.until_open(60)


def test_a_path_that_was_cut_shortly_before_strongswan_ended(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern", dpd_delay_s=10, dead_peer_s=20)
    keeper.until_open()
    time.sleep(1)
    cut_s = time.monotonic()
    ipsec.cut()
    time.sleep(6)
    ipsec.operator_charon.stop()
    shut = shut_after(keeper, cut_s)
    assert shut["in_doubt_s"] >= shut["at_s"] - cut_s
