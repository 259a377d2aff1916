"""Means of ten seconds, warnings and purges; copies that were lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from scene import DELIVERY, OTHER_DELIVERY, Scene, now, policy

from flowtap.control import (
    Bandwidth,
    Congested,
    ContentDestination,
    ControlSource,
    CopiesLost,
    Count,
    Happening,
    Policy,
    Purged,
)
from flowtap.dtcp import ListResult, Timeouts

LIMITS = Bandwidth(soft_limit_bps=8_000, soft_clear_bps=4_000, hard_limit_bps=80_000, hard_target_bps=16_000)


def limited(bandwidth: Bandwidth = LIMITS, **source: Any) -> Policy:
    return Policy(
        {"md": ControlSource("md", **source), "md2": ControlSource("md2")},
        {
            "cd1": ContentDestination("cd1", DELIVERY, bandwidth=bandwidth),
            "free": ContentDestination("free", DELIVERY),
        },
    )


class Traffic:
    """Lets criteria match so many octets a second, and the seconds pass."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.second = 0.0
        self.happened: list[Happening] = []

    def seconds(self, count: int, **octets_per_s: int) -> list[Happening]:
        self.happened = []
        for _ in range(count):
            self.second += 1
            # The data plane hands out what it has at that moment.
            counts = dict(self.scene.data_plane.count)
            for name, octets in octets_per_s.items():
                number = int(name[1:])
                before = counts.get(number, Count())
                counts[number] = Count(before.packets + 1, before.octets + octets)
            self.scene.data_plane.count = counts
            self.happened += self.scene.control.tick(now(self.second))
        return self.happened


def rates(scene: Scene, login: str = "md") -> list[int | None]:
    listed = scene.list(login, stats=True)
    assert isinstance(listed, ListResult)
    return [entry.average_bandwidth_bps for entry in listed.entries]


def test_a_mean_of_ten_seconds(scene: Scene) -> None:
    scene.added()
    scene.added()
    assert rates(scene) == [0, 0]
    traffic = Traffic(scene)
    traffic.seconds(1)
    traffic.seconds(5, c1=100)
    # Five of ten seconds had 800 bits.
    assert rates(scene) == [400, 0]
    traffic.seconds(10, c1=100)
    assert rates(scene) == [800, 0]
    traffic.seconds(5)
    assert rates(scene) == [400, 0]
    traffic.seconds(20)
    assert rates(scene) == [0, 0]
    assert scene.control.bandwidth_bps(scene.control.intercepts[0]) == 0


def test_the_counts_of_earlier_runs_are_no_traffic(scene: Scene) -> None:
    scene.added()
    (intercept,) = scene.control.intercepts
    scene.control._running.put([replace(intercept, carried=Count(1, 10**9))])
    traffic = Traffic(scene)
    traffic.seconds(1)
    scene.data_plane.count = {1: Count(2, 10**9 + 100)}
    traffic.seconds(1)
    assert rates(scene) == [80]


def test_a_soft_limit_warns_once_a_crossing(scene: Scene) -> None:
    scene.control.apply_policy(limited(), now())
    scene.added()
    scene.added("md2")
    scene.added("md2", cdest_ids=("free",))
    traffic = Traffic(scene)
    assert traffic.seconds(20, c1=400, c2=500) == []
    warned = traffic.seconds(10, c1=600, c2=600)
    assert [type(each) for each in warned] == [Congested, Congested]
    first, second = warned
    assert isinstance(first, Congested)
    assert isinstance(second, Congested)
    # Everybody with criteria to it is told the sum of all.
    assert (first.csource_id, second.csource_id) == ("md", "md2")
    assert first.cdest_id == "cd1"
    assert first.bandwidth == LIMITS
    assert first.average_bps == second.average_bps > 8_000
    # Between clear and limit nothing is said; below clear it is armed again.
    assert traffic.seconds(30, c1=400, c2=400) == []
    assert traffic.seconds(10, c1=900, c2=600) == []
    traffic.seconds(20)
    assert len(traffic.seconds(20, c1=900, c2=600)) == 2


@pytest.mark.ledger("T-156")
def test_a_hard_limit_ends_the_worst_and_the_newest_first(scene: Scene) -> None:
    scene.control.apply_policy(limited(), now())
    scene.added(priority=1)
    scene.added(priority=9)
    scene.added("md2", priority=1)
    scene.added("md2", priority=9, static=False, timeouts=Timeouts(total_s=10_000))
    scene.added(priority=9)
    traffic = Traffic(scene)
    happened = traffic.seconds(12, c1=1_500, c2=3_000, c3=3_000, c4=3_000)
    purged = [each for each in happened if isinstance(each, Purged)]
    # The fifth would be the first to go, but it is silent: that would not help.
    assert purged == [Purged("md", "cd1", (2,)), Purged("md2", "cd1", (3, 4))]
    assert scene.running == (1, 5)
    assert scene.data_plane.installed[-1] == (1, 5)
    assert [row.criteria_id for row in scene.store.running()] == [1, 5]


def test_a_minimum_priority_counts(scene: Scene) -> None:
    scene.control.apply_policy(limited(minimum_priority=100), now())
    scene.added(priority=1)
    scene.added("md2", priority=9)
    traffic = Traffic(scene)
    happened = traffic.seconds(12, c1=5_500, c2=1_900)
    assert [each for each in happened if isinstance(each, Purged)] == []
    happened = traffic.seconds(12, c1=20_000, c2=1_900)
    assert [each for each in happened if isinstance(each, Purged)] == [Purged("md", "cd1", (1,))]


def test_what_the_data_plane_does_not_end_is_not_said_to_have_ended(scene: Scene) -> None:
    scene.control.apply_policy(limited(Bandwidth(hard_limit_bps=100, hard_target_bps=50)), now())
    scene.added()
    original = scene.data_plane.change

    def failing(start: Any, stop: Any) -> None:
        scene.data_plane.fails = True
        try:
            original(start, stop)
        finally:
            scene.data_plane.fails = False

    scene.data_plane.change = failing  # type: ignore[method-assign]
    assert Traffic(scene).seconds(5, c1=1_000) == []
    assert scene.running == (1,)


def test_a_control_source_that_is_gone_has_no_priority_of_its_own(scene: Scene) -> None:
    scene.added()
    gone = limited(Bandwidth(hard_limit_bps=100, hard_target_bps=50))
    scene.control._policy = Policy({}, gone.content_destinations)
    happened = Traffic(scene).seconds(5, c1=1_000)
    assert happened == [Purged("md", "cd1", (1,))]


@dataclass(frozen=True)
class Lost:
    criteria_id: int
    cdest_id: str
    packets: int
    octets: int


def test_lost_copies_are_said_once_a_period(scene: Scene) -> None:
    scene.control.apply_policy(replace(policy(), duplicates_dropped_period_s=30), now())
    scene.added()
    scene.added("md2", cdest_ids=("own",), deliveries=(OTHER_DELIVERY,))

    def told(at: float, *lost: Lost) -> list[Happening]:
        scene.data_plane.lost = list(lost)
        return scene.control.tick(now(at))

    assert told(1) == []
    assert told(2, Lost(1, "cd1", 3, 300)) == [CopiesLost("md", "cd1", 1, 3, 300)]
    assert told(3, Lost(1, "cd1", 5, 500), Lost(2, "own", 1, 60), Lost(9, "cd1", 1, 1)) == [
        CopiesLost("md2", "own", 2, 1, 60)
    ]
    # Half a minute later: what has come on top since.
    assert told(32, Lost(1, "cd1", 5, 500), Lost(2, "own", 1, 60)) == [CopiesLost("md", "cd1", 1, 2, 200)]
    assert told(99, Lost(1, "cd1", 5, 500), Lost(2, "own", 1, 60)) == []
    scene.delete(1)
    assert told(100) == []
    assert list(scene.control._losses._said) == [(2, "own")]
