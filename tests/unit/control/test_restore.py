"""What a restart makes of the journal: nothing that was acknowledged is lost, nothing that ended comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scene import DELIVERY, OTHER_DELIVERY, V7, Scene, now, policy, principal

from flowtap.control import (
    ContentDestination,
    ControlSource,
    Count,
    Policy,
    PortError,
    Restarted,
    State,
    Usage,
    verify,
)
from flowtap.control.journal import JournalError, from_text, to_text
from flowtap.dtcp import FilterText, IdRange, Parameter, RefreshRequest, Timeouts
from flowtap.service import clock

HERE = clock.boot_id()
NOTHING = Usage({}, HERE, is_final=False)


def again(
    scene: Scene, at: float = 0, usage: Usage | None = None, **source: Any
) -> tuple[Scene, list[Restarted]]:
    """The same store in a new process."""
    scene.store.close()
    next_one = Scene(scene.path.parent, **source)
    return next_one, next_one.restore(at, usage)


def reasons(scene: Scene) -> dict[int, str]:
    rows = [json.loads(row.text) for row in scene.store.audit_rows()]
    return {row["criteria_id"]: dict(row["detail"])["reason"] for row in rows if row["event"] == "stop"}


@pytest.mark.ledger("T-099")
def test_what_ran_runs_again_as_it_was(scene: Scene) -> None:
    first = scene.added(
        static=False,
        timeouts=Timeouts(idle_s=50, total_s=100, packets=10, octets=1000),
        filter=FilterText(source="192.0.2.1", protocol="17", destination_port="53"),
        send_async=True,
        priority=7,
        extensions=(Parameter("X-One", "a\\044b"), Parameter("X-Two", "é")),
    )
    scene.added("md2", cdest_ids=("own", "cd1"), deliveries=(OTHER_DELIVERY, DELIVERY))
    before = scene.control.intercepts
    second, told = again(scene, 20)
    assert second.control.intercepts == before
    assert second.data_plane.installed == [(1, 2)]
    assert [(each.csource_id, each.restored, each.total) for each in told] == [("md", 1, 1), ("md2", 1, 1)]
    assert told[0].silent_from == now().wall
    assert told[0].silent_to == now(21).wall
    # Its time has run on.
    assert second.expire(50)[0].intercept.criteria_id == first
    assert verify(second.store.audit_rows()) == 2 + 2 + 2 + 1
    second.store.close()


def test_what_has_run_out_or_is_no_longer_permitted_ends(scene: Scene) -> None:
    scene.added(static=False, timeouts=Timeouts(total_s=10))
    scene.added(static=False, timeouts=Timeouts(idle_s=10))
    scene.added(cdest_ids=("own",), deliveries=(OTHER_DELIVERY,))
    scene.added(filter=FilterText(source="192.0.2.0/24"))
    scene.added("md2")
    second, told = again(scene, 10, allowed_destinations=frozenset({"cd1"}), narrowest_v4=32)
    assert second.running == (5,)
    assert {each.csource_id: (each.restored, each.total) for each in told} == {"md": (0, 4), "md2": (1, 1)}
    assert reasons(second)[1] == "time-out: total"
    assert reasons(second)[2] == "time-out: idle"
    assert reasons(second)[3].startswith("no longer permitted: no such content destination")
    assert reasons(second)[4].startswith("no longer permitted: source or destination must be as narrow")
    second.store.close()


def test_counts_and_budgets_go_on(scene: Scene) -> None:
    first = scene.added(static=False, timeouts=Timeouts(packets=10))
    used_up = scene.added(static=False, timeouts=Timeouts(packets=10))
    free = scene.added()
    counts = {first: Count(4, 400, now(5).monotonic_ns), used_up: Count(10, 1000), free: Count(7, 700)}
    second, _ = again(scene, 20, Usage(counts, HERE, is_final=False))
    assert second.running == (first, free)
    assert reasons(second) == {used_up: "time-out: packets"}
    assert [each.carried for each in second.control.intercepts] == [Count(4, 400), Count(7, 700)]
    assert second.control.intercepts[0].idle_since_ns == now(5).monotonic_ns
    # Counts are sums since the ADD, whatever the data plane has been told since.
    second.data_plane.count = {first: Count(9, 900), free: Count(7, 700)}
    result = second.list(at=21, stats=True)
    left = [entry.remaining for entry in result.entries]  # type: ignore[union-attr]
    assert left == [Timeouts(packets=1), Timeouts()]
    third, _ = again(second, 30, Usage({first: Count(9, 900)}, HERE, is_final=False))
    assert [each.carried.packets for each in third.control.intercepts] == [9, 7]
    third.store.close()


def test_a_refresh_survives(scene: Scene) -> None:
    first = scene.added(static=False, timeouts=Timeouts(total_s=10))
    request = RefreshRequest(V7, "md", "1", Timeouts(total_s=100), (IdRange(first, first, single=True),))
    scene.control.handle(principal(), request, now(9))
    second, _ = again(scene, 50)
    assert second.running == (first,)
    assert second.control.intercepts[0].refreshes == 1
    second.store.close()


class TestAnotherBoot:
    """The machine went down: the monotonic clock began anew, and only the wall clock knows what has passed."""

    def at(self, scene: Scene, passed_s: float, usage: Usage | None = None) -> Scene:
        scene.store.close()
        next_one = Scene(scene.path.parent)
        moment = replace(now(passed_s), monotonic_ns=5 * 10**9)
        next_one.control.restore(
            next_one.store.running(),
            usage or Usage({}, "another boot", is_final=False, until=now(3)),
            ended_without_record=frozenset(),
            boot_id="this boot",
            now=moment,
        )
        return next_one

    def test_time_that_has_passed_counts(self, scene: Scene) -> None:
        scene.added(static=False, timeouts=Timeouts(total_s=100))
        scene.added(static=False, timeouts=Timeouts(total_s=30))
        second = self.at(scene, 40)
        assert second.running == (1,)
        (left,) = second.control.intercepts
        assert left.total_since_ns == 5 * 10**9 - 40 * 10**9
        second.store.close()

    def test_an_order_ends_when_it_ends(self, scene: Scene) -> None:
        end = (now().wall.replace(tzinfo=UTC) + timedelta(seconds=50)).isoformat()
        scene.added(extensions=(Parameter("X-FlowTap-Order-End", end),))
        second = self.at(scene, 40)
        assert second.control.intercepts[0].order_end_ns == 15 * 10**9
        third = self.at(second, 60)
        assert third.running == ()
        third.store.close()

    def test_a_budget_is_used_up_where_nobody_knows(self, scene: Scene) -> None:
        scene.added(static=False, timeouts=Timeouts(octets=1000))
        scene.added()
        second = self.at(scene, 1)
        assert second.running == (2,)
        assert reasons(second)[1] == "time-out: what is left of a budget is not known after a crash"
        second.store.close()

    def test_a_budget_goes_on_where_the_tap_ended_in_order(self, scene: Scene) -> None:
        first = scene.added(static=False, timeouts=Timeouts(octets=1000, idle_s=60))
        counts = {first: Count(1, 400, now(10).monotonic_ns)}
        second = self.at(scene, 40, Usage(counts, "another boot", is_final=True, until=now(20)))
        (left,) = second.control.intercepts
        # The last match was 30 seconds ago on any clock.
        assert left.idle_since_ns == 5 * 10**9 - 30 * 10**9
        assert left.carried == Count(1, 400)
        second.store.close()

    def test_idleness_from_before_the_boot_counts(self, scene: Scene) -> None:
        scene.added(static=False, timeouts=Timeouts(idle_s=100))
        scene.added(static=False, timeouts=Timeouts(idle_s=30))
        second = self.at(scene, 40)
        (left,) = second.control.intercepts
        assert left.idle_since_ns == 5 * 10**9 - 40 * 10**9
        second.store.close()

    def test_without_a_sign_of_life_the_last_match_is_not_believed(self, scene: Scene) -> None:
        """On the clock of that boot it would lie in the future of this one, and nothing would be idle till then."""
        first = scene.added(static=False, timeouts=Timeouts(idle_s=600))
        usage = Usage({first: Count(1, 1, now(3).monotonic_ns)}, "another boot", is_final=False)
        second = self.at(scene, 40, usage)
        assert second.running == (first,)
        assert second.control.intercepts[0].idle_since_ns == 5 * 10**9 - 40 * 10**9
        second.store.close()

    def test_a_wall_clock_that_was_set_back_takes_nothing_away(self, scene: Scene) -> None:
        scene.added(static=False, timeouts=Timeouts(total_s=100))
        second = self.at(scene, -5000)
        assert second.control.intercepts[0].total_since_ns == 5 * 10**9
        second.store.close()


def test_the_gap_is_recorded_with_its_ends(scene: Scene) -> None:
    scene.added()
    until = Usage({}, HERE, is_final=False, until=now(7))
    second, (told,) = again(scene, 20, until)
    assert (told.silent_from, told.silent_to) == (now(7).wall, now(21).wall)
    rows = [json.loads(row.text) for row in second.store.audit_rows()]
    details = [row["detail"] for row in rows if row["event"] == "restart"]
    assert details == [
        [["restored", "1 of 1"]],
        [["not copying", f"{now(7).wall.isoformat()} to {now(21).wall.isoformat()}"]],
    ]
    assert second.control.resumed(now(30)) == []
    second.store.close()


def test_nothing_left_says_nothing(scene: Scene) -> None:
    second, told = again(scene)
    assert told == []
    assert list(second.store.audit_rows()) == []
    assert second.data_plane.installed == []
    second.store.close()


def test_what_waits_for_approval_still_waits(tmp_path: Path) -> None:
    scene = Scene(tmp_path, needs_approval=True)
    first = scene.added(static=False, timeouts=Timeouts(packets=5, idle_s=5))
    second, told = again(scene, 100, NOTHING, needs_approval=True)
    assert second.control.intercepts[0].state is State.PENDING
    assert (second.running, second.data_plane.installed) == ((first,), [])
    assert [each.restored for each in told] == [1]
    second.store.close()


def test_exclusions_are_those_of_today(scene: Scene) -> None:
    scene.added(filter=FilterText(source="192.0.2.0/24"))
    second, _ = again(scene, excluded=("192.0.2.7",))
    assert second.data_plane.active[1].excluded == ("192.0.2.7",)
    second.store.close()


def test_a_destination_that_was_moved_gets_nothing(scene: Scene) -> None:
    scene.added()
    scene.store.close()
    second = Scene(scene.path.parent)
    moved = Policy(policy().control_sources, {"cd1": ContentDestination("cd1", OTHER_DELIVERY)})
    second.control.apply_policy(moved, now())
    second.restore()
    assert second.running == ()
    assert reasons(second) == {1: "no longer permitted: the content destination has moved"}
    second.store.close()


def test_a_journal_that_cannot_be_read_ends_its_criterion(scene: Scene) -> None:
    scene.added()
    scene.added()
    with scene.store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE intercepts SET content = '{}' WHERE criteria_id = 1")
    second, _ = again(scene)
    assert second.running == (2,)
    assert reasons(second) == {1: "the journal's row cannot be read"}
    second.store.close()


def test_a_store_that_takes_nothing_does_not_keep_it_from_running(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.added()
    scene.added(static=False, timeouts=Timeouts(total_s=5))
    scene.store.close()
    second = Scene(scene.path.parent)

    def failing() -> Any:
        raise PortError

    with monkeypatch.context() as patch:
        patch.setattr(second.store, "transaction", failing)
        second.restore(9)
    assert second.data_plane.installed == [(1,)]
    assert second.running == (1,)
    assert second.store.ended_without_record == {2}
    # Recorded with the next change, as it was then.
    second.expire(10)
    assert reasons(second) == {2: "time-out: total"}
    assert second.store.ended_without_record == frozenset()
    second.store.close()


def test_a_data_plane_that_fails_is_said(scene: Scene) -> None:
    scene.added()
    scene.store.close()
    second = Scene(scene.path.parent)
    second.data_plane.fails = True
    with pytest.raises(PortError):
        second.restore()
    second.store.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": 1}',
        '{"format": 2}',
        '{"format": 1, "carried": [1]}',
    ],
)
def test_lines_that_are_no_intercept(text: str) -> None:
    with pytest.raises(JournalError):
        from_text(text)


def test_a_line_holds_everything(scene: Scene) -> None:
    scene.added(
        cdest_ids=("own", "cd1"),
        deliveries=(OTHER_DELIVERY, DELIVERY),
        extensions=(
            Parameter("X-FlowTap-Order", "2026/17"),
            Parameter("X-FlowTap-Order-End", "2030-01-01T00:00:00Z"),
        ),
    )
    (intercept,) = scene.control.intercepts
    changed = replace(
        intercept,
        state=State.PENDING,
        approved_by="chief",
        carried=Count(3, 5),
        packets_base=-1,
        excluded=("192.0.2.7",),
        added=datetime(2026, 3, 2, tzinfo=UTC),
    )
    for each in (intercept, changed):
        assert from_text(to_text(each)) == each


def test_ids_of_what_is_given_up_stay_used(scene: Scene) -> None:
    scene.added("md2")
    scene.store.close()
    second = Scene(scene.path.parent)
    narrower = Policy({"md": ControlSource("md")}, policy().content_destinations)
    second.control.apply_policy(narrower, now())
    second.restore()
    assert second.running == ()
    assert reasons(second) == {1: "no longer permitted: there is no such control source any more"}
    assert second.added() == 2
    second.store.close()
