"""A tunnel that is kept up over VICI: real daemons, real IKE and ESP, and a gate that says what is done with it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from net import HERE, PYTHON, until
from topology import DEAD_AFTER_S, Ipsec, Profile, ipsec, needs_root

pytestmark = [*needs_root(), pytest.mark.timeout(120)]
__all__ = ["ipsec"]


class Keeper:
    """The process that keeps the tunnel up, and what it has said."""

    def __init__(self, ipsec: Ipsec, section: dict[str, Any]) -> None:
        self.faults = ipsec.directory / "faults"
        if not self.faults.exists():
            self.faults.write_text("")
        job = {"section": section, "directory": str(ipsec.directory), "faults": str(self.faults)}
        self.errors = ipsec.directory / "keeper.log"
        with self.errors.open("a") as errors:
            self._process = ipsec.net.start(
                ipsec.operator,
                *(PYTHON, str(HERE / "keeper.py"), json.dumps(job)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.said: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    @property
    def is_open(self) -> bool:
        gates = [each["gate"] for each in self.said if "gate" in each]
        return bool(gates) and gates[-1] == "open"

    @property
    def state(self) -> str:
        states = [each["state"] for each in self.said if "state" in each]
        return str(states[-1]) if states else ""

    @property
    def reason(self) -> str:
        reasons = [each["reason"] for each in self.said if "reason" in each]
        return str(reasons[-1]) if reasons else ""

    def has_said(self, words: str) -> bool:
        """Whether some reason had these words."""
        return any(words in each.get("reason", "") for each in list(self.said))

    def shuts(self) -> list[float]:
        """What was in doubt, each time that the gate was shut."""
        return [each["in_doubt_s"] for each in self.said if each.get("gate") == "shut"]

    def order(self, words: str) -> dict[str, Any]:
        """Has it do something; what came of it."""
        before = len(self.said)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()

        def answers() -> list[dict[str, Any]]:
            return [each for each in self.said[before:] if "done" in each or "failed" in each]

        until(f"{words} is answered", answers, 20)
        return answers()[0]

    def until(self, what: str, true: Callable[[], bool], seconds: float = 20) -> None:
        try:
            until(what, true, seconds)
        except AssertionError:
            raise AssertionError(f"{what}: {self.said[-8:]} {self.errors.read_text()[-2000:]}") from None

    def until_open(self, seconds: float = 20) -> None:
        self.until("the gate is open", lambda: self.is_open and self.state == "up", seconds)

    def end(self) -> int:
        """Ends it; how it has ended."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        code = self._process.wait(timeout=20)
        self._thread.join(timeout=10)
        return code


@pytest.fixture
def keep(ipsec: Ipsec) -> Iterator[Callable[..., Keeper]]:
    """Begins to keep a tunnel up."""
    keepers: list[Keeper] = []

    def begin(profile: Profile = "modern", **changes: Any) -> Keeper:
        keepers.append(Keeper(ipsec, ipsec.section(profile, **changes)))
        return keepers[-1]

    yield begin
    for each in keepers:
        each.end()
        assert "Traceback" not in each.errors.read_text(), each.errors.read_text()


Keep = Callable[..., Keeper]


@pytest.mark.parametrize("profile", ["how_to", "modern", "certificate"])
def test_it_comes_up_and_only_esp_is_seen(ipsec: Ipsec, keep: Keep, profile: Profile) -> None:
    ipsec.load_peer(profile)
    observer = ipsec.observer()
    began = time.monotonic()
    keeper = keep(profile)
    keeper.until_open()
    assert time.monotonic() - began < 10
    assert ipsec.passes()
    assert observer.in_clear() == []
    assert len(observer.protected()) >= 6
    assert ("is legacy" in keeper.errors.read_text()) == (profile == "how_to")


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ("how_to", "pre-shared key"),
        ("modern", "one side does not prove itself"),
        ("certificate", "authority"),
    ],
)
def test_a_wrong_proof_is_named_and_a_right_one_taken(
    ipsec: Ipsec, keep: Keep, profile: Profile, reason: str
) -> None:
    if profile == "certificate":
        # Of another authority.
        ipsec.load_peer(profile)
        keeper = keep(profile, authority_file=str(ipsec.certificates.file("stranger")))
    else:
        ipsec.load_peer(profile, password="wrong_one_here")
        keeper = keep(profile)
    keeper.until("the reason is said", lambda: reason in keeper.reason)
    assert "wrong_one" not in json.dumps(keeper.said)
    assert "a_password" not in json.dumps(keeper.said)
    assert not any("gate" in each for each in keeper.said)
    if profile == "certificate":
        keeper.end()
        keeper = keep(profile)
    else:
        ipsec.load_peer(profile)
    keeper.until_open(60)


def test_narrower_networks_are_not_enough(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern", networks=("2.2.2.0/28",))
    keeper = keep("modern")
    keeper.until("the reason is said", lambda: "leaves out 2.2.2.0/27 of remote_networks" in keeper.reason)
    assert keeper.state == "down"
    time.sleep(2.5)
    assert not any("gate" in each for each in keeper.said)
    ipsec.load_peer("modern")
    keeper.until_open(60)


def test_what_the_other_side_does_not_propose_is_named(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern", child={"esp_proposals": ["aes128-sha256"]})
    keeper = keep("modern")
    keeper.until("the reason is said", lambda: "none of the proposals" in keeper.reason)
    ipsec.load_peer("modern")
    keeper.until_open(60)


@pytest.mark.parametrize("profile", ["how_to", "modern"])
@pytest.mark.parametrize("what", ["child", "ike"])
def test_a_deletion_shuts_the_gate_until_there_is_another(
    ipsec: Ipsec, keep: Keep, profile: Profile, what: Any
) -> None:
    ipsec.load_peer(profile)
    keeper = keep(profile)
    keeper.until_open()
    ipsec.terminate_at_peer(what)
    keeper.until("the gate was shut", lambda: bool(keeper.shuts()))
    keeper.until_open()
    # It was said, so little can have been lost.
    assert all(each <= 4 for each in keeper.shuts())
    assert ipsec.passes()


@pytest.mark.parametrize("profile", ["how_to", "modern"])
def test_a_cut_path_is_noticed_in_seconds(ipsec: Ipsec, keep: Keep, profile: Profile) -> None:
    ipsec.load_peer(profile)
    keeper = keep(profile)
    keeper.until_open()
    time.sleep(2.5)
    cut_s = time.monotonic()
    ipsec.cut()
    keeper.until("the gate is shut", lambda: not keeper.is_open, 15)
    (shut,) = [each for each in keeper.said if each.get("gate") == "shut"]
    lost_s = shut["at_s"] - cut_s
    assert lost_s <= 12
    # No less than what was lost, and not without end.
    assert lost_s <= shut["in_doubt_s"] <= lost_s + 7
    if profile == "modern":
        assert any(each.get("state") == "suspect" for each in keeper.said)
        assert lost_s >= DEAD_AFTER_S - 1
    keeper.until("it is said", lambda: "does not answer" in keeper.reason)
    ipsec.heal()
    keeper.until_open(60)
    assert ipsec.passes()


def test_a_path_that_comes_back_in_time_leaves_a_doubt(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern", dead_peer_s=30)
    keeper.until_open()
    cut_s = time.monotonic()
    ipsec.cut()
    keeper.until("it is suspect", lambda: keeper.state == "suspect", 10)
    assert keeper.is_open
    ipsec.heal()
    keeper.until("it is up again", lambda: keeper.state == "up", 10)
    gates = [each for each in keeper.said if "gate" in each][1:]
    assert [each["gate"] for each in gates] == ["shut", "open"]
    assert gates[0]["in_doubt_s"] >= gates[0]["at_s"] - cut_s
    assert gates[1]["at_s"] - gates[0]["at_s"] < 0.5


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_end_of_charon_shuts_the_gate_at_once(ipsec: Ipsec, keep: Keep, how: str) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until_open()
    ended_s = time.monotonic()
    getattr(ipsec.operator_charon, how)()
    keeper.until("the gate is shut", lambda: not keeper.is_open)
    (shut,) = [each for each in keeper.said if each.get("gate") == "shut"]
    assert shut["at_s"] - ended_s < 1.5
    assert shut["in_doubt_s"] <= 4
    assert keeper.state == "down"
    ipsec.operator_charon.start()
    keeper.until_open(30)


def test_a_charon_that_hangs_is_none(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until_open()
    hung_s = time.monotonic()
    ipsec.operator_charon.signal(signal.SIGSTOP)
    try:
        keeper.until("the gate is shut", lambda: not keeper.is_open)
        keeper.until("the reason is said", lambda: keeper.state == "down")
    finally:
        ipsec.operator_charon.signal(signal.SIGCONT)
    (shut,) = [each for each in keeper.said if each.get("gate") == "shut"]
    assert shut["in_doubt_s"] >= shut["at_s"] - hung_s
    assert any("no answer" in each.get("reason", "") for each in keeper.said)
    keeper.until_open(30)


def test_it_waits_for_charon(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.operator_charon.stop()
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until("the reason is said", lambda: "strongSwan cannot be reached" in keeper.reason)
    assert keeper.state == "down"
    ipsec.operator_charon.start()
    keeper.until_open(30)


def child_ids(ipsec: Ipsec) -> list[str]:
    """The children that carry packets."""
    with ipsec.operator_charon.session() as session:
        return [
            child["uniqueid"].decode()
            for part in session.list_sas()
            for ike in part.values()
            for child in ike["child-sas"].values()
            if child["state"] == b"INSTALLED"
        ]


@pytest.mark.parametrize("profile", ["how_to", "modern"])
def test_new_keys_leave_the_gate_open(ipsec: Ipsec, keep: Keep, profile: Profile) -> None:
    ipsec.load_peer(profile)
    keeper = keep(profile)
    keeper.until_open()
    for what in ("child", "ike", "child", "ike"):
        before = child_ids(ipsec)
        assert "done" in keeper.order(f"rekey {what}")
        if what == "child":
            until("there is another child", lambda before=before: not set(before) & set(child_ids(ipsec)))
        time.sleep(1.2)
    # The other side does, too.
    with ipsec.gateway_charon.session() as session:
        session.rekey({"child": "content"})
        time.sleep(1.2)
        session.rekey({"ike": "operator"})
        time.sleep(2.2)
    assert keeper.shuts() == []
    assert ipsec.passes()


def test_nothing_leaves_without_the_guard(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    (ipsec.directory / "faults").write_text("the table inet flowtap_guard is missing\n")
    keeper = keep("modern")
    keeper.until("it is blocked", lambda: keeper.state == "blocked")
    assert "flowtap_guard is missing" in keeper.reason
    time.sleep(3)
    assert not any("gate" in each for each in keeper.said)
    keeper.faults.write_text("")
    keeper.until_open()
    keeper.faults.write_text("a rule accepts before it\n")
    keeper.until("it is blocked", lambda: keeper.state == "blocked" and not keeper.is_open, 8)
    keeper.faults.write_text("")
    keeper.until_open()


def test_a_kernel_without_esp_is_named(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.operator_charon.stop()
    ipsec.operator_charon.start("netlink")
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until("the reason is said", lambda: "the kernel of this host has no ESP" in keeper.reason)
    assert not any("gate" in each for each in keeper.said)


def test_it_ends_with_the_gate_and_leaves_the_tunnel(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until_open()
    (child,) = child_ids(ipsec)
    assert keeper.end() == 0
    assert [sorted(each) for each in keeper.said[-2:]] == [["at_s", "gate", "in_doubt_s"], ["at_s", "ended"]]
    assert ipsec.passes()
    again = keep("modern")
    again.until_open()
    time.sleep(1.5)
    # It was told of the same connection again, and left it alone.
    assert child_ids(ipsec) == [child]
    assert again.shuts() == []


def test_an_operator_takes_it_down_and_up(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until_open()
    assert "done" in keeper.order("down")
    assert not keeper.is_open
    assert keeper.reason == "it was taken down here"
    assert child_ids(ipsec) == []
    # There is nothing left to take down, and nothing to give new keys.
    assert "done" in keeper.order("down")
    assert "no matching" in keeper.order("rekey ike")["failed"]
    # The other side wants it up; this one does not.
    with ipsec.gateway_charon.session() as session:
        for _ in session.initiate({"child": "content", "timeout": "5000"}):
            pass
    until("there is a child", lambda: child_ids(ipsec))
    time.sleep(1.5)
    assert not keeper.is_open
    assert "done" in keeper.order("up")
    keeper.until_open()
    assert "done" in keeper.order("unload")
    with ipsec.operator_charon.session() as session:
        assert session.get_conns()["conns"] == []
        assert session.get_shared()["keys"] == []


def test_what_somebody_unloads_is_loaded_again(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until_open()
    with ipsec.operator_charon.session() as session:
        session.unload_conn({"name": "md"})
        until("it is loaded again", lambda: session.get_conns()["conns"] == [b"md"])
    keeper.until_open()
    assert ipsec.passes()


def test_a_gateway_that_has_forgotten_everything_leaves_a_doubt(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern")
    keeper = keep("modern")
    keeper.until_open()
    killed_s = time.monotonic()
    ipsec.gateway_charon.kill()
    ipsec.gateway_charon.start()
    # It comes back and begins by itself, before it was missed.
    ipsec.load_peer("modern", child={"start_action": "start"})
    keeper.until("the gate was shut", lambda: bool(keeper.shuts()))
    (shut,) = [each for each in keeper.said if each.get("gate") == "shut"]
    assert shut["in_doubt_s"] >= shut["at_s"] - killed_s
    keeper.until_open()
    assert ipsec.passes()


def test_ikev1_has_a_child_for_each_pair_of_networks(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("how_to")
    # Where a daemon does ESP itself, an address of its own must lie in each.
    ipsec.net.run(ipsec.gateway, "ip", "addr", "add", "2.2.2.17/27", "dev", "ttp1")
    keeper = keep("how_to", remote_networks=["2.2.2.0/28", "2.2.2.16/28"])
    keeper.until_open()
    assert len(child_ids(ipsec)) == 2
    assert ipsec.passes()
    ipsec.terminate_at_peer("child")
    keeper.until("the gate was shut", lambda: bool(keeper.shuts()))
    keeper.until_open()
    assert len(child_ids(ipsec)) == 2


def test_a_tunnel_that_is_deleted_as_soon_as_it_is_up_is_left_to_settle(ipsec: Ipsec, keep: Keep) -> None:
    # The gateway has no address in the second one, deletes it, and is asked again, a hundred times a second.
    ipsec.load_peer("how_to")
    keeper = keep("how_to", remote_networks=["2.2.2.0/28", "2.2.2.16/28"])
    # Said for moments only: between them the association is gone again.
    began_s = time.monotonic()
    keeper.until("it is left alone", lambda: keeper.has_said("left to settle"), 35)
    time.sleep(5)
    assert len(keeper.shuts()) < 10
    # Some lines a second at most, however often it comes and goes.
    assert len(keeper.errors.read_text().splitlines()) < 10 + 3 * (time.monotonic() - began_s)


def test_a_network_that_is_not_of_this_host_is_named(ipsec: Ipsec, keep: Keep) -> None:
    ipsec.load_peer("modern", tap=("192.0.2.0/24",))
    keeper = keep("modern", local_networks=["192.0.2.0/24"])
    keeper.until(
        "the reason is said", lambda: "an address of this host must lie in local_networks" in keeper.reason
    )
