"""What control sources are told: whom, where, in which version, and of what; read from real sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scene import OTHER_DELIVERY, Scene, now, policy

from flowtap.control import (
    Bandwidth,
    ContentDestination,
    ControlSource,
    Count,
    Ended,
    Happening,
    Policy,
    Purged,
    Restarted,
)
from flowtap.dtcp import Key, Parameter, Reply, Status, Timeouts, Version
from flowtap.dtcp.grammar import format_time
from flowtap.dtcp.reply import parse_reply
from flowtap.service import notify
from flowtap.service.notify import KNOWN, Notifier, Recipient
from flowtap.service.tasking import TaskingLoop

V6, V7, V8 = Version(0, 6), Version(0, 7), Version(0, 8)


class Keys:
    def key_for(self, csource_id: str) -> Key | None:
        return None if csource_id == "gone" else Key(f"the key of {csource_id}".encode())


class Mailbox:
    """An address that notifications may come to."""

    def __init__(self, csource_id: str, family: int = socket.AF_INET) -> None:
        self.csource_id = csource_id
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.socket.setblocking(False)
        self.address: tuple[str, int] = self.socket.getsockname()[:2]

    def take(self) -> list[Reply]:
        """What has come; over loopback that is there when it was sent."""
        found = []
        key = Keys().key_for(self.csource_id)
        assert key is not None
        while True:
            try:
                found.append(parse_reply(self.socket.recv(65_536), key))
            except BlockingIOError:
                return found


class Post:
    """Mailboxes of several control sources, and what sends to them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.boxes = {name: Mailbox(name) for name in ("md", "md2", "md3")}
        self.second = Mailbox("md", socket.AF_INET6)
        targets: dict[str, tuple[tuple[str, int], ...]] = {
            name: (box.address,) for name, box in self.boxes.items()
        }
        targets["md"] += (self.second.address,)
        self.recipients = {name: Recipient(each) for name, each in targets.items()}
        self.notifier = Notifier(self.recipients, Keys())
        self.loop = TaskingLoop(scene.control, self.notifier)

    def only(self, csource_id: str, version: Version | None) -> None:
        """Sets the notification version of one of them."""
        self.recipients[csource_id] = replace(self.recipients[csource_id], version=version)
        self.notifier.apply(self.recipients, Keys())

    def told(self, *happened: Happening | Restarted) -> dict[str, list[tuple[int, dict[str, str]]]]:
        """What each has found in its mailbox after something has happened."""
        for each in happened:
            self.loop.tell(each, now(5))
        return {name: [values(reply) for reply in box.take()] for name, box in self.boxes.items()}

    def close(self) -> None:
        self.notifier.close()
        for box in (*self.boxes.values(), self.second):
            box.socket.close()
        self.scene.store.close()


def values(reply: Reply) -> tuple[int, dict[str, str]]:
    assert reply.seq is None
    return reply.code, {each.name: each.value for each in reply.parameters}


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    made = Post(Scene(tmp_path))
    yield made
    made.close()


AT = format_time(now(5).wall)


@pytest.mark.ledger("T-021", "T-022", "T-151", "T-152")
@pytest.mark.parametrize("status", [Status.SEQUENCE_ROLLOVER, Status.NOOP_NOTIFICATION])
def test_every_target_of_one_control_source_and_nobody_else(post: Post, status: Status) -> None:
    assert post.notifier.notify("md", status, (), now(5).wall)
    assert [values(each) for each in post.second.take()] == [(status, {"Timestamp": AT})]
    assert post.told() == {"md": [(status, {"Timestamp": AT})], "md2": [], "md3": []}


def test_nobody_to_tell(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("gone", "unknown"):
        assert not post.notifier.notify(name, Status.NOOP_NOTIFICATION, (), now().wall)
    post.recipients["md3"] = Recipient(())
    assert not post.notifier.notify("md3", Status.NOOP_NOTIFICATION, (), now().wall)
    # Whom it cannot be sent to is logged and forgotten.
    post.recipients["md3"] = Recipient((("255.255.255.255", 9), post.boxes["md3"].address))
    assert post.notifier.notify("md3", Status.NOOP_NOTIFICATION, (), now().wall)
    assert len(post.boxes["md3"].take()) == 1
    assert "notification 131 for md3 was not sent" in caplog.text


@pytest.mark.ledger("T-023", "T-024")
@pytest.mark.parametrize("status", list(KNOWN), ids=lambda status: status.name.lower())
def test_the_version_is_the_configured_one_or_the_one_used_last(post: Post, status: Status) -> None:
    def version() -> Version:
        assert post.notifier.notify("md", status, (), now().wall)
        (reply,) = post.boxes["md"].take()
        return reply.version

    assert version() == V7
    for heard in (V8, V6):
        post.notifier.heard("md", heard)
        assert version() == heard
    for configured in (V6, V7, V8):
        post.only("md", configured)
        for heard in (V6, V7, V8):
            post.notifier.heard("md", heard)
            assert version() == configured
    post.only("md", None)
    assert version() == V8


@pytest.mark.ledger("T-025")
@pytest.mark.parametrize("status", list(KNOWN), ids=lambda status: status.name.lower())
def test_what_a_version_does_not_know_is_not_sent_in_it(
    post: Post, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that there are were there from the first version on; one that came later is made up here."""
    assert KNOWN[status] == V6
    monkeypatch.setattr(notify, "KNOWN", {**KNOWN, status: V7})
    for version, is_sent in ((V6, False), (V7, True), (V8, True)):
        post.only("md", version)
        assert post.notifier.notify("md", status, (), now().wall) == is_sent
        assert len(post.boxes["md"].take()) == is_sent
        # Every other one is sent as before.
        others = [each for each in KNOWN if each is not status]
        assert all(post.notifier.notify("md", each, (), now().wall) for each in others)
        assert [each.code for each in post.boxes["md"].take()] == others


@pytest.mark.ledger("T-026")
def test_the_versions_differ_in_nothing_but_their_name(post: Post) -> None:
    """No format has changed from 0.6 to 0.8: what is said is the same, line by line."""
    scene = post.scene
    ended = scene.added(static=False, timeouts=Timeouts(idle_s=3, octets=9), send_async=True)
    (timed_out,) = scene.expire(5)
    assert timed_out.intercept.criteria_id == ended
    said: list[list[dict[str, str]]] = []
    for version in (V6, V7, V8):
        post.only("md", version)
        told = post.told(timed_out, Purged("md", "cd1", (1,)), Restarted("md", 1, 2, now().wall, now().wall))
        said.append([each for _, each in told["md"]])
    assert said[0] == said[1] == said[2]
    assert len(said[0]) == 3


@pytest.mark.ledger("T-088", "T-150")
def test_a_restart(post: Post) -> None:
    """Everybody who had criteria is told what became of them; with the journal off that is that none is left."""
    told = post.told(
        Restarted("md", 0, 3, now().wall, now(1).wall), Restarted("md2", 2, 2, now().wall, now(1).wall)
    )
    silent = f"not copying {format_time(now().wall)} to {format_time(now(1).wall)}"
    assert told == {
        "md": [
            (599, {"Alert-Info": f"restarted; 0 of 3 criteria restored; {silent}", "Timestamp": AT}),
        ],
        "md2": [
            (599, {"Alert-Info": f"restarted; 2 of 2 criteria restored; {silent}", "Timestamp": AT}),
        ],
        "md3": [],
    }


@pytest.mark.ledger("T-097", "T-100", "T-153")
@pytest.mark.parametrize(
    ("timeouts", "count", "at", "said"),
    [
        (Timeouts(idle_s=3), Count(), 3, {"Timeout-Idle": "3", "Remaining-Idle": "0"}),
        (Timeouts(total_s=4), Count(), 4, {"Timeout-Total": "4", "Remaining-Total": "0"}),
        (Timeouts(packets=5), Count(5, 9), 1, {"Timeout-Packets": "5", "Remaining-Packets": "0"}),
        (Timeouts(octets=600), Count(1, 600), 1, {"Timeout-Bytes": "600", "Remaining-Bytes": "0"}),
        (
            Timeouts(idle_s=60, total_s=4, packets=10, octets=0),
            Count(7, 70),
            4,
            {
                "Timeout-Idle": "60",
                "Timeout-Total": "4",
                "Timeout-Packets": "10",
                "Remaining-Idle": "56",
                "Remaining-Total": "0",
                "Remaining-Packets": "3",
            },
        ),
    ],
)
def test_a_time_out_of_any_kind_is_told_where_it_was_asked_for(
    post: Post, timeouts: Timeouts, count: Count, at: float, said: dict[str, str]
) -> None:
    scene = post.scene
    asked = scene.added(static=False, timeouts=timeouts, send_async=True)
    silent = scene.added(static=False, timeouts=timeouts)
    assert scene.expire(at - 0.5) == []
    scene.data_plane.count = {asked: count, silent: count}
    ended = scene.expire(at)
    assert {each.intercept.criteria_id for each in ended} == {asked, silent}
    expected = (390, {"Criteria-ID": str(asked), **said, "Timestamp": AT})
    assert post.told(*ended) == {"md": [expected], "md2": [], "md3": []}


def test_the_end_of_an_order_is_told_as_well(post: Post) -> None:
    end = (Parameter("X-FlowTap-Order-End", "2026-03-02T10:00:02Z"),)
    number = post.scene.added(extensions=end, send_async=True)
    (ended,) = post.scene.expire(2)
    assert post.told(ended)["md"] == [(390, {"Criteria-ID": str(number), "Timestamp": AT})]


# --- congestion and losses -----------------------------------------------------------------------

LIMITS = Bandwidth(soft_limit_bps=8_000, soft_clear_bps=4_000, hard_limit_bps=80_000, hard_target_bps=16_000)


def congested(scene: Scene) -> Callable[..., list[Happening]]:
    """Three control sources, two of them with criteria to one limited destination; lets traffic flow."""
    limited = Policy(
        {name: ControlSource(name) for name in ("md", "md2", "md3")},
        {
            **policy().content_destinations,
            "cd2": ContentDestination("cd2", OTHER_DELIVERY, bandwidth=LIMITS),
        },
    )
    scene.control.apply_policy(limited, now())
    for login, cdest in (("md", "cd2"), ("md2", "cd2"), ("md", "cd2"), ("md3", "cd1"), ("md2", "cd2")):
        scene.added(login, cdest_ids=(cdest,))
    # Had criteria to it, has none any more.
    scene.delete(scene.added("md3", cdest_ids=("cd2",)), login="md3")
    second = [0.0]

    def flow(seconds: int, **octets_per_s: int) -> list[Happening]:
        happened: list[Happening] = []
        for _ in range(seconds):
            second[0] += 1
            counts = dict(scene.data_plane.count)
            for name, octets in octets_per_s.items():
                before = counts.get(int(name[1:]), Count())
                counts[int(name[1:])] = Count(before.packets + 1, before.octets + octets)
            scene.data_plane.count = counts
            happened += scene.control.tick(now(second[0]))
        return happened

    return flow


@pytest.mark.ledger("T-154", "T-155")
def test_congestion_is_told_to_all_who_have_criteria_to_it_and_to_nobody_else(post: Post) -> None:
    flow = congested(post.scene)
    # The mean of ten seconds of the sum of all is what counts.
    assert flow(12, c1=500, c2=490) == []
    told = post.told(*flow(10, c1=500, c2=520, c4=100_000))
    (first,), (second,) = told["md"], told["md2"]
    assert first == second
    assert first[0] == 580
    average = int(first[1].pop("Average-Bandwidth"))
    assert 8_000 < average <= 8 * 1_020
    assert first[1] == {
        "Cdest-ID": "cd2",
        "Alert-Bandwidth": "8000",
        "Max-Bandwidth": "80000",
        "Timestamp": AT,
    }
    assert told["md3"] == []


@pytest.mark.ledger("T-156", "T-157")
def test_a_purge_is_told_to_each_with_its_own_ids_alone(post: Post) -> None:
    flow = congested(post.scene)
    told = post.told(*flow(12, c1=1_000, c2=4_000, c3=4_000, c4=100_000, c5=4_000))
    purged = {name: [each for each in found if each[0] == 680] for name, found in told.items()}
    ids = {name: [each["Criteria-ID"] for _, each in found] for name, found in purged.items()}
    # The newest of the same priority go first, static ones as well, until the target is reached.
    assert ids == {"md": ["3"], "md2": ["2,5"], "md3": []}
    assert purged["md"][0][1] == {"Cdest-ID": "cd2", "Criteria-ID": "3", "Timestamp": AT}
    assert post.scene.running == (1, 4)


@dataclass(frozen=True)
class Lost:
    criteria_id: int
    cdest_id: str
    packets: int
    octets: int


@pytest.mark.ledger("T-158", "T-159")
def test_losses_are_told_to_whom_they_concern_as_long_as_they_last(post: Post) -> None:
    scene = post.scene
    scene.control.apply_policy(replace(policy(), duplicates_dropped_period_s=30), now())
    scene.added()
    scene.added("md2")

    def told(at: float, *lost: Lost) -> dict[str, Any]:
        scene.data_plane.lost = list(lost)
        return post.told(*scene.control.tick(now(at)))

    def said(packets: int, octets: int) -> tuple[int, dict[str, str]]:
        return 598, {
            "Cdest-ID": "cd1",
            "Criteria-ID": "2",
            "X-Dropped-Packets": str(packets),
            "X-Dropped-Bytes": str(octets),
            "Timestamp": AT,
        }

    nothing: dict[str, Any] = {"md": [], "md2": [], "md3": []}
    assert told(1) == nothing
    assert told(2, Lost(2, "cd1", 3, 300)) == nothing | {"md2": [said(3, 300)]}
    assert told(20, Lost(2, "cd1", 4, 400)) == nothing
    assert told(32, Lost(2, "cd1", 9, 900)) == nothing | {"md2": [said(6, 600)]}
    assert told(62, Lost(2, "cd1", 11, 999)) == nothing | {"md2": [said(2, 99)]}
    assert told(99, Lost(2, "cd1", 11, 999)) == nothing


def test_what_is_told_is_counted(post: Post) -> None:
    post.scene.added(static=False, timeouts=Timeouts(idle_s=1), send_async=True)
    (ended,) = post.scene.expire(1)
    assert isinstance(ended, Ended)
    post.told(ended)
    columns = post.loop.accounts["md"].columns([], 0, 0)
    assert (columns["notification_timeout"], columns["criteria_deleted_timeout_idle"]) == (1, 1)


def test_notifications_leave_from_one_port_wherever_they_go() -> None:
    """The tap knows its own by that port, also those to targets that a reload has brought."""
    first, second = Mailbox("md"), Mailbox("md")
    notifier = Notifier({"md": Recipient((first.address,))}, Keys())
    ports = dict(notifier.open())
    try:
        assert notifier.notify("md", Status.SERVER_RESTART, (), now().wall)
        notifier.apply({"md": Recipient((second.address,))}, Keys())
        assert notifier.notify("md", Status.SERVER_RESTART, (), now().wall)
        for mailbox in (first, second):
            _, sender = mailbox.socket.recvfrom(65_536)
            assert sender[1] == ports["0.0.0.0"]
    finally:
        notifier.close()
        first.socket.close()
        second.socket.close()
