"""When the gate is open, and how much is in doubt when it is shut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sections import child, ike, legacy, section

from flowtap.delivery.associations import ChildAssociation, ChildDown, ChildRekeyed, IkeAssociation, fits
from flowtap.delivery.connection import wanted_children
from flowtap.delivery.states import POLL_S, Decision, TunnelMachine
from flowtap.delivery.tunnel import TunnelState

if TYPE_CHECKING:
    from flowtap.config.tunnels import TunnelSection

S = TunnelState


def machine(values: TunnelSection | None = None) -> TunnelMachine:
    values = values or section()
    return TunnelMachine(values, wanted_children("md", values), 0)


def up(values: TunnelSection | None = None, at_s: float = 0) -> TunnelMachine:
    """One that is up, with child 1."""
    made = machine(values)
    made.guarded([], at_s)
    made.daemon_ready(at_s)
    made.saw((ike(child()),), at_s)
    assert made.decide(at_s).verify
    made.guarded([], at_s)
    assert made.decide(at_s).is_open
    return made


def test_it_comes_up_step_by_step() -> None:
    made = machine()
    assert made.decide(0).state is S.BLOCKED
    made.guarded([], 0)
    first = made.decide(0)
    assert (first.state, first.is_telling) == (S.CONNECTING, False)
    made.daemon_gone("strongSwan cannot be reached", 1)
    assert made.decide(1) == Decision(S.DOWN, "strongSwan cannot be reached", is_open=False)
    made.daemon_ready(2)
    made.saw((), 2)
    assert (made.decide(2).state, made.decide(2).is_telling) == (S.CONNECTING, False)
    made.saw((ike(state="CONNECTING"),), 3)
    assert made.decide(3).state is S.CONNECTING
    made.saw((ike(child()),), 4)
    decision = made.decide(4)
    assert (decision.state, decision.verify, decision.is_open) == (S.CONNECTING, True, False)
    made.guarded([], 4)
    decision = made.decide(4)
    assert (decision.state, decision.verify, decision.is_open) == (S.UP, False, True)
    assert decision.in_doubt_s is None
    assert made.since_s == 4


@pytest.mark.parametrize("faults", [["a rule is missing"], ["x", "y"]])
def test_guard_faults_shut_it_at_once(faults: list[str]) -> None:
    made = up()
    made.guarded(faults, 1)
    decision = made.decide(1)
    assert (decision.state, decision.is_open) == (S.BLOCKED, False)
    assert decision.in_doubt_s is not None
    assert "; ".join(faults) in decision.reason
    made.guarded([], 2)
    assert made.decide(2).is_open


def test_a_child_that_no_longer_fits_shuts_it_at_once() -> None:
    made = up()
    made.saw((ike(child(), child(2, remote_selectors=("10.9.0.0/25",))),), 1)
    decision = made.decide(1)
    assert (decision.state, decision.is_open) == (S.DOWN, False)
    assert "leaves out 10.9.0.0/24" in decision.reason
    # Only the misfit is replaced.
    decision = made.decide(3)
    assert (decision.terminate, decision.initiate) == ((2,), ("md-content",))
    # When it is gone the guard is looked at again first.
    made.saw((ike(child()),), 4)
    decision = made.decide(4)
    assert (decision.is_open, decision.verify) == (False, True)


def test_every_wanted_child_must_be_there() -> None:
    values = legacy(remote_networks=["10.9.0.0/24", "10.10.0.0/24"], esp_proposals=["aes256gcm16-ecp384"])
    made = machine(values)
    made.guarded([], 0)
    made.daemon_ready(0)
    one = child(1, name="md-content-1")
    made.saw((ike(one),), 5)
    decision = made.decide(5)
    assert (decision.is_open, decision.verify, decision.initiate) == (False, False, ("md-content-2",))
    made.saw((ike(one, child(2, name="md-content-2", remote_selectors=("10.10.0.0/24",))),), 6)
    assert made.decide(6).verify


def test_a_rekey_leaves_it_open_whatever_comes_first() -> None:
    made = up()
    old, new = child(1, state="REKEYED"), child(2)
    # The event, then the listing; the listing, then the event; then the old one goes.
    made.heard(ChildRekeyed(1, 2), 1)
    made.saw((ike(old, new),), 1)
    assert made.decide(1).in_doubt_s is None
    made.saw((ike(old, child(2, state="DELETED"), child(3)),), 2)
    made.heard(ChildRekeyed(2, 3), 2)
    made.saw((ike(child(3)),), 3)
    made.heard(ChildDown(2, is_said=True), 3)
    decision = made.decide(3)
    assert decision.is_open
    assert decision.in_doubt_s is None
    # An IKE association follows another with the child.
    made.saw((ike(child(3), unique_id=2), ike(unique_id=1, state="REKEYING")), 4)
    assert made.decide(4).in_doubt_s is None


def test_a_deletion_that_was_said_leaves_little_doubt() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    made.decide(20)
    made.heard(ChildDown(1, is_said=True), 20.5)
    decision = made.decide(20.5)
    assert (decision.is_open, decision.in_doubt_s) == (False, 2)
    assert decision.reason == "one side has deleted the association"
    # The next one is there already when it is looked at.
    made.saw((ike(child(2)),), 20.6)
    assert made.decide(20.6).verify
    made.guarded([], 20.6)
    assert made.decide(20.6).is_open


def test_another_child_in_its_place_is_a_loss_even_if_no_event_came() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    made.decide(20)
    made.saw((ike(child(2)),), 21)
    decision = made.decide(21)
    assert (decision.is_open, decision.verify) == (False, True)
    # Until a listing without questions 1 s ago, and who hears nothing asks after 2 s.
    assert decision.in_doubt_s == 1 + 2 + 2


def test_a_deletion_is_told_from_a_rekey_though_the_listing_came_first() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    made.saw((ike(child(1, state="DELETED"), child(2)),), 21)
    assert made.decide(21).in_doubt_s is None
    made.heard(ChildDown(1, is_said=True), 21)
    assert made.decide(21).in_doubt_s == 2


def test_a_question_without_answer_makes_it_suspect_and_leaves_it_open() -> None:
    made = up()
    asking = ike(child(), tasks_active=("IKE_DPD",))
    states = []
    for at_s in (20, 21, 22, 23):
        made.saw((ike(child()) if at_s == 20 else asking,), at_s)
        decision = made.decide(at_s)
        assert decision.is_open
        states.append(decision.state)
    assert states == [S.UP, S.UP, S.SUSPECT, S.SUSPECT]
    made.heard(ChildDown(1, is_said=False), 24.5)
    decision = made.decide(24.5)
    assert (decision.state, decision.in_doubt_s) == (S.DOWN, 4.5 + 2 + 2)
    assert "the other gateway was given up" in decision.reason


def test_an_answer_at_last_leaves_a_doubt_and_it_open() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    for at_s in (21, 22, 23):
        made.saw((ike(child(), tasks_active=("IKE_DPD",)),), at_s)
        assert made.decide(at_s).in_doubt_s is None
    made.saw((ike(child()),), 24)
    decision = made.decide(24)
    assert (decision.state, decision.is_open, decision.in_doubt_s) == (S.UP, True, 4 + 2 + 2)
    made.saw((ike(child()),), 25)
    assert made.decide(25).in_doubt_s is None


def test_a_short_question_is_none() -> None:
    made = up()
    for at_s in range(20, 40):
        tasks = ("IKE_DPD",) if at_s % 2 else ()
        made.saw((ike(child(), tasks_active=tasks),), at_s)
        assert made.decide(at_s) == Decision(S.UP, "associations are as asked for", is_open=True)


def test_ikev1_has_no_questions_to_look_at() -> None:
    made = up(legacy(esp_proposals=["aes256gcm16-ecp384"], dead_peer_s=15, dpd_delay_s=2))
    made.saw((ike(child()),), 99.5)
    made.heard(ChildDown(1, is_said=False), 100)
    assert made.decide(100).in_doubt_s == 15 + POLL_S + 2 + 2


def test_the_end_of_the_daemon_says_nothing_of_the_path() -> None:
    """It may have been cut since strongSwan last heard something, and nobody is left who would have asked."""
    made = up()
    made.saw((ike(child()),), 50)
    made.daemon_gone("strongSwan has closed the connection", 50.5)
    decision = made.decide(50.5)
    assert (decision.state, decision.is_open, decision.in_doubt_s) == (S.DOWN, False, 0.5 + 2 + 2)
    # One that has hung for a while may have done so since the last listing.
    made = up()
    made.saw((ike(child()),), 50)
    made.daemon_gone("no answer", 55.5)
    assert made.decide(55.5).in_doubt_s == 5.5 + 2 + 2
    made = up()
    made.saw((ike(child()),), 50)
    made.hold(50.5)
    assert made.decide(50.5).in_doubt_s == 0.5 + 2 + 2


def test_a_deletion_that_was_said_while_a_question_was_open_leaves_the_whole_doubt() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    made.saw((ike(child(), tasks_active=("IKE_DPD",)),), 21)
    made.heard(ChildDown(1, is_said=True), 21.5)
    assert made.decide(21.5).in_doubt_s == 1.5 + 2 + 2


def test_a_deletion_of_this_side_s_own_says_nothing_of_the_path() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    made.heard(ChildDown(1, is_said=True, is_ours=True), 20.5)
    decision = made.decide(20.5)
    assert (decision.in_doubt_s, decision.reason) == (0.5 + 2 + 2, "one side has deleted the association")


def test_questions_that_follow_each_other_are_answers() -> None:
    """Keys of everything are changed, and each listing falls into another exchange."""
    made = up()
    made.saw((ike(child()),), 20)
    listings = (
        ike(child(), tasks_active=("CHILD_REKEY",)),
        ike(child(), tasks_active=("IKE_REKEY",)),
        ike(child(), unique_id=2, tasks_active=("CHILD_REKEY",)),
        ike(child(), unique_id=2, tasks_active=("CHILD_DELETE",)),
        ike(child(), unique_id=2),
    )
    for at_s, found in enumerate(listings, 21):
        made.saw((found,), at_s)
        assert made.decide(at_s) == Decision(S.UP, "associations are as asked for", is_open=True)


def test_who_is_given_up_while_another_question_begins_was_not_answered() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    for at_s in (21, 22, 23, 24):
        made.saw((ike(child(), tasks_active=("IKE_DPD",)),), at_s)
        made.decide(at_s)
    made.saw((ike(child(2), unique_id=2, tasks_active=("IKE_AUTH_LIFETIME",)),), 25)
    assert made.decide(25).in_doubt_s == 5 + 2 + 2


def test_the_guard_is_no_proof_for_what_came_after_it_was_looked_at() -> None:
    made = machine()
    made.guarded([], 0)
    made.daemon_ready(0)
    made.saw((), 1)
    # It takes its time; meanwhile the association comes up.
    made.saw((ike(child()),), 3)
    made.guarded([], 2)
    decision = made.decide(3.1)
    assert (decision.is_open, decision.verify) == (False, True)
    made.guarded([], 3.1)
    assert made.decide(3.2).is_open


def test_nothing_opens_on_what_was_seen_long_ago() -> None:
    made = machine()
    made.guarded([], 0)
    made.daemon_ready(0)
    made.saw((ike(child()),), 3)
    made.guarded([], 3)
    decision = made.decide(8)
    assert (decision.state, decision.is_open, decision.verify) == (S.CONNECTING, False, False)
    made.saw((ike(child()),), 8)
    assert made.decide(8).is_open
    # What is open stays open meanwhile: who does not answer is gone soon.
    assert made.decide(12).is_open


def test_what_was_held_back_waits_for_the_answer_of_who_is_suspect() -> None:
    made = up()
    made.saw((ike(child()),), 20)
    for at_s in (21, 22, 23):
        made.saw((ike(child(), tasks_active=("IKE_DPD",)),), at_s)
        assert made.decide(at_s).is_open
    made.guarded(["a rule is missing"], 23)
    assert made.decide(23).in_doubt_s == 3 + 2 + 2
    made.guarded([], 24)
    made.saw((ike(child(), tasks_active=("IKE_DPD",)),), 24)
    decision = made.decide(24)
    assert (decision.state, decision.is_open) == (S.CONNECTING, False)
    assert "does not answer" in decision.reason
    made.saw((ike(child()),), 25)
    assert made.decide(25).is_open


def test_no_doubt_reaches_far_behind_the_opening() -> None:
    made = up(at_s=100)
    made.heard(ChildDown(1, is_said=False), 100.5)
    assert made.decide(100.5).in_doubt_s == 2.5


def test_attempts_are_made_less_and_less_often() -> None:
    made = machine()
    made.guarded([], 0)
    made.daemon_ready(0)
    attempts = []
    for at_s in range(200):
        made.saw((), at_s)
        if made.decide(at_s).initiate:
            attempts.append(at_s)
            made.initiating()
            assert made.decide(at_s).state is S.CONNECTING
            made.tell("received NO_PROPOSAL_CHOSEN notify error")
            made.initiated(at_s)
            assert "none of the proposals" in made.decide(at_s).reason
    assert attempts == [1, 2, 4, 8, 16, 32, 62, 92, 122, 152, 182]


def test_nothing_is_initiated_while_it_is_not_wanted_or_under_way() -> None:
    made = machine()
    made.daemon_ready(0)
    made.saw((), 10)
    assert made.decide(10).initiate == ()
    made.guarded([], 10)
    assert made.decide(10).initiate == ("md-content",)
    made.saw((ike(state="CONNECTING"),), 11)
    assert made.decide(11).initiate == ()
    made.saw((ike(),), 12)
    assert made.decide(12).initiate == ("md-content",)
    made.hold(12)
    assert made.decide(12).initiate == ()


def test_it_is_held_down_whatever_there_is() -> None:
    made = up()
    made.hold(10)
    decision = made.decide(10)
    assert (decision.state, decision.is_open, decision.reason) == (S.DOWN, False, "it was taken down here")
    made.saw((ike(child(2)),), 11)
    decision = made.decide(11)
    assert (decision.is_open, decision.verify) == (False, False)
    made.release(12)
    made.saw((ike(child(2)),), 12)
    assert made.decide(12).verify


def test_what_is_lost_again_and_again_is_left_to_settle() -> None:
    made = up()
    opened = 0
    for at_ms in range(0, 60_000, 20):
        at_s = at_ms / 1000
        number = at_ms // 20
        made.saw((ike(child(number)),), at_s)
        if made.decide(at_s).verify:
            made.guarded([], at_s)
            opened += made.decide(at_s).is_open
        made.heard(ChildDown(number, is_said=True), at_s + 0.01)
        assert not made.decide(at_s + 0.01).is_open
    assert 5 < opened < 10


# What may come in, in any order. Children are few, so that the same one comes back in another state.
CHILDREN = st.builds(
    child,
    st.integers(1, 4),
    state=st.sampled_from(["INSTALLED", "INSTALLED", "REKEYING", "REKEYED", "DELETED", "INSTALLING"]),
    mode=st.sampled_from(["TUNNEL"] * 5 + ["TRANSPORT"]),
    remote_selectors=st.sampled_from([("10.9.0.0/24",)] * 5 + [("10.9.0.0/25",)]),
    name=st.sampled_from(["md-content"] * 5 + ["another"]),
)
IKES = st.builds(
    lambda children, tasks: ike(*children, tasks_active=tuple(tasks)),
    st.lists(CHILDREN, max_size=3, unique_by=lambda each: each.unique_id),
    st.sampled_from([[], [], ["IKE_DPD"], ["CHILD_REKEY"]]),
)
INPUTS = st.one_of(
    st.tuples(st.just("saw"), st.lists(IKES, max_size=2).map(tuple)),
    st.tuples(st.just("saw"), st.just((ike(child()),))),
    st.tuples(st.just("down"), st.builds(ChildDown, st.integers(1, 4), st.booleans())),
    st.tuples(st.just("rekeyed"), st.builds(ChildRekeyed, st.integers(1, 4), st.integers(1, 4))),
    st.tuples(st.just("guarded"), st.sampled_from([[], [], [], ["a fault"]])),
    st.tuples(st.just("gone"), st.just("gone")),
    st.tuples(st.just("ready"), st.none()),
    st.tuples(st.just("hold"), st.none()),
    st.tuples(st.just("release"), st.none()),
    st.tuples(st.just("initiating"), st.none()),
    st.tuples(st.just("initiated"), st.none()),
)


def live(found: tuple[IkeAssociation, ...]) -> list[ChildAssociation]:
    return [
        each
        for association in found
        for each in association.children
        if each.state in {"INSTALLED", "REKEYING"} and each.name == "md-content"
    ]


@given(st.lists(st.tuples(INPUTS, st.floats(0, 8)), max_size=60))
def test_the_gate_is_never_open_without_a_fitting_child_and_a_sound_guard(
    inputs: list[tuple[tuple[str, Any], float]],
) -> None:
    """Against a plain account of what is known: nothing is inferred here, the last word counts."""
    made, now_s, was_open = machine(), 0.0, False
    found: tuple[IkeAssociation, ...] = ()
    is_there = is_held = is_sound = False
    for (what, value), passed_s in inputs:
        now_s += passed_s
        if what == "saw":
            found = value
            made.saw(value, now_s)
        elif what in {"down", "rekeyed"}:
            made.heard(value, now_s)
        elif what == "guarded":
            is_sound = not value
            made.guarded(value, now_s)
        elif what == "gone":
            found, is_there = (), False
            made.daemon_gone(value, now_s)
        elif what == "ready":
            is_there = True
            made.daemon_ready(now_s)
        elif what in {"hold", "release"}:
            is_held = what == "hold"
            getattr(made, what)(now_s)
        elif what == "initiating":
            made.initiating()
        else:
            made.initiated(now_s)
        decision = made.decide(now_s)
        assert decision.is_open == (decision.state in {S.UP, S.SUSPECT})
        if decision.is_open:
            assert is_there
            assert is_sound
            assert not is_held
            assert live(found)
            assert all(not fits(each, section()) for each in live(found))
        # Whatever shuts it says how much is in doubt, and nothing else does.
        assert was_open or decision.in_doubt_s is None
        assert not was_open or decision.is_open or decision.in_doubt_s is not None
        assert decision.in_doubt_s is None or decision.in_doubt_s >= 0
        if decision.initiate:
            assert is_sound
            assert is_there
            assert not is_held
        was_open = decision.is_open


@given(
    version=st.sampled_from([1, 2]),
    delay_s=st.integers(1, 10),
    late_s=st.floats(0, 1.5),
    cut_s=st.floats(30, 60),
    silence_s=st.floats(0, 1),
    dead_s=st.floats(1, 40),
    polls=st.lists(st.floats(0.1, 3), min_size=120, max_size=120),
)
def test_the_doubt_covers_everything_since_the_path_was_cut(
    *,
    version: int,
    delay_s: int,
    late_s: float,
    cut_s: float,
    silence_s: float,
    dead_s: float,
    polls: list[float],
) -> None:
    """The last packet comes when the path is cut or before, and the question after the delay that was set, whole
    seconds and late by some; when it was given up an event comes.
    """
    values = section(dpd_delay_s=delay_s, dead_peer_s=60)
    if version == 1:
        values = legacy(dpd_delay_s=delay_s, dead_peer_s=60, esp_proposals=["aes256gcm16-ecp384"])
    made = up(values)
    asked_s = cut_s - silence_s * delay_s + delay_s + late_s
    lost_s = max(asked_s, cut_s) + dead_s
    now_s = 0.0
    for each in polls:
        if (now_s := now_s + each) >= lost_s:
            break
        asking = version == 2 and now_s >= asked_s
        made.saw((ike(child(), tasks_active=("IKE_DPD",) if asking else ()),), now_s)
        assert made.decide(now_s).is_open
    made.heard(ChildDown(1, is_said=False), lost_s)
    decision = made.decide(lost_s)
    assert decision.in_doubt_s is not None
    assert decision.in_doubt_s >= lost_s - cut_s
