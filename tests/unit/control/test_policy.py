"""What one control source may tap, for how long, on whose order, and who has to agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from scene import DELIVERY, OTHER_DELIVERY, Scene, now, policy, principal

from flowtap import Criteria, FilterTable
from flowtap.control import (
    PERMISSION_APPROVE,
    PERMISSION_CHANGE,
    PERMISSION_TASK,
    PERMISSION_VIEW,
    ContentDestination,
    ControlPlane,
    PortError,
    ProtectedPath,
    Refused,
    State,
)
from flowtap.control.journal import from_text
from flowtap.dtcp import (
    AddResult,
    DeleteResult,
    ErrorResult,
    FilterText,
    ListResult,
    Parameter,
    Scope,
    Status,
    Timeouts,
)
from flowtap.service.filters import FilterReader, FilterSpace
from flowtap.service.places import Places


def refused(scene: Scene, **fields: Any) -> ErrorResult:
    result = scene.add(**fields)
    assert isinstance(result, ErrorResult), result
    assert scene.running == ()
    return result


def events(scene: Scene) -> list[tuple[str, str, int | None]]:
    rows = [json.loads(row.text) for row in scene.store.audit_rows()]
    return [(row["event"], row["login"], row["criteria_id"]) for row in rows]


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"source": "192.0.2.1"}, True),
        ({"destination": "192.0.2.0/25"}, True),
        ({"destination": "198.51.100.1"}, False),
        ({"source": "192.0.2.0/23"}, False),
        ({}, False),
        ({"source": "2001:db8:1::1"}, True),
        ({"source": "192.0.2.1,198.51.100.1"}, False),
    ],
)
def test_address_space(tmp_path: Path, fields: dict[str, str], allowed: bool) -> None:
    scene = Scene(tmp_path, allowed_space=FilterSpace(["192.0.2.0/24", "2001:db8::/32"]))
    result = scene.add(filter=FilterText(**fields))
    assert isinstance(result, AddResult) == allowed
    if isinstance(result, ErrorResult):
        assert result.status is Status.IMPROPER_FILTER
        assert {each.value for each in result.parameters} == set(fields.values())
    scene.store.close()


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"source": "192.0.2.1"}, True),
        ({"source": "192.0.2.0/24", "destination": "0.0.0.0/0"}, True),
        ({"source": "192.0.2.0/23"}, False),
        ({"source": "*", "destination": "2001:db8::/48"}, True),
        ({"destination": "2001:db8::/47"}, False),
        ({"source": "192.0.2.1,2001:db8::/32"}, False),
        ({"protocol": "17"}, False),
    ],
)
def test_breadth(tmp_path: Path, fields: dict[str, str], allowed: bool) -> None:
    scene = Scene(tmp_path, narrowest_v4=24, narrowest_v6=48)
    result = scene.add(filter=FilterText(**fields))
    assert isinstance(result, AddResult) == allowed
    if isinstance(result, ErrorResult):
        assert "length 24 (IPv4), 48 (IPv6)" in (result.info or "")
    scene.store.close()


def test_exclusions(tmp_path: Path) -> None:
    scene = Scene(tmp_path, excluded=("192.0.2.7/32", "2001:db8:7::/48"))
    scene.added(filter=FilterText(source="192.0.2.0/24"))
    assert scene.data_plane.active[1].excluded == ("192.0.2.7/32", "2001:db8:7::/48")
    # The owner sees what he has asked for, and not the operator's list.
    listed = scene.list()
    assert isinstance(listed, ListResult)
    assert listed.entries[0].filter == FilterText(source="192.0.2.0/24")
    nothing_left = scene.add(filter=FilterText(destination="192.0.2.7"))
    assert isinstance(nothing_left, ErrorResult)
    assert nothing_left.status is Status.IMPROPER_FILTER
    assert nothing_left.info == "nothing is left that may be copied for this control source"
    assert nothing_left.parameters == (Parameter("Dest-Address", "192.0.2.7"),)
    scene.store.close()


def test_exclusions_that_change_rule_what_runs(scene: Scene) -> None:
    scene.added()
    scene.added("md2")
    assert scene.control.apply_policy(policy(excluded=("203.0.113.9",)), now(1)) == []
    assert [each.excluded for each in scene.control.intercepts] == [("203.0.113.9",), ()]
    assert scene.data_plane.active[1].excluded == ("203.0.113.9",)
    assert events(scene)[-1] == ("change", "", 1)


def test_another_policy_ends_what_it_would_refuse(scene: Scene) -> None:
    scene.added()
    scene.added(filter=FilterText(source="198.51.100.0/24"))
    ended = scene.control.apply_policy(policy(allowed_space=FilterSpace(["192.0.2.0/24"])), now(1))
    assert [each.criteria_id for each in ended] == [2]
    assert (scene.running, scene.data_plane.installed[-1]) == ((1,), (1,))
    scene.data_plane.fails = True
    assert scene.control.apply_policy(policy(allowed_destinations=frozenset({"other"})), now(2)) == []
    assert scene.running == (1,)


def test_a_policy_that_the_data_plane_did_not_take_is_enforced_when_it_does(scene: Scene) -> None:
    """What would be refused today does not run on because of a moment in which nothing could be changed."""
    scene.added()
    scene.added("md2")
    scene.added(cdest_ids=("own",), deliveries=(OTHER_DELIVERY,))
    scene.data_plane.fails = True
    narrower = policy(allowed_destinations=frozenset({"cd1"}), excluded=("203.0.113.9",))
    assert scene.control.apply_policy(narrower, now(1)) == []
    with suppress(PortError):
        scene.control.tick(now(2))
    assert list(scene.running) == [1, 2, 3]
    scene.data_plane.fails = False
    assert scene.control.tick(now(3)) == []
    assert list(scene.running) == [1, 2]
    assert [each.excluded for each in scene.control.intercepts] == [("203.0.113.9",), ()]
    assert scene.data_plane.active[1].excluded == ("203.0.113.9",)
    installed = len(scene.data_plane.installed)
    scene.control.tick(now(4))
    assert len(scene.data_plane.installed) == installed


# --- where packets must pass ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "given"),
    [
        (Scope(("eth0", "eth9")), Parameter("X-JTap-Input-Interface", "eth0,eth9")),
        (Scope(output_interfaces=("eth9",)), Parameter("X-JTap-Output-Interface", "eth9")),
        (Scope(vrf="BLUE"), Parameter("X-JTap-VRF-Name", "BLUE")),
    ],
)
def test_places_that_are_not_there(scene: Scene, scope: Scope, given: Parameter) -> None:
    error = refused(scene, scope=scope)
    assert error.status is Status.JTAP_FAILURE
    assert error.parameters == (given,)


def test_a_place_that_is_taken_away_ends_what_looks_there(scene: Scene, tmp_path: Path) -> None:
    """A restart finds fewer interfaces than there were."""
    first = scene.added(scope=Scope(vrf="RED"))
    kept = scene.added(scope=Scope(("eth0",)))
    scene.store.close()
    second = Scene(tmp_path)
    second.control = ControlPlane(
        policy=policy(),
        store=second.store,
        data_plane=second.data_plane,
        filters=FilterReader(Places(["eth0", "eth1"])),
    )
    (told,) = second.restore(5)
    assert (told.restored, told.total) == (1, 2)
    assert second.running == (kept,)
    ends = [json.loads(row.text) for row in second.store.audit_rows()]
    assert [row["criteria_id"] for row in ends if row["event"] == "stop"] == [first]
    second.store.close()


@pytest.mark.parametrize("was", [(), ("203.0.113.1",)])
def test_stricter_exclusions_rule_though_nothing_can_be_recorded(
    was: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less is copied at once; more only when that is on record."""
    scene = Scene(tmp_path, excluded=was)
    scene.added()
    transaction, full = scene.store.transaction, True

    @contextmanager
    def failing() -> Iterator[Any]:
        if full:
            raise PortError
        with transaction() as begun:
            yield begun

    monkeypatch.setattr(scene.store, "transaction", failing)
    scene.control.apply_policy(policy(excluded=("203.0.113.9",)), now(1))
    assert scene.data_plane.active[1].excluded == ("203.0.113.9", *was)
    scene.control.tick(now(2))
    assert scene.data_plane.active[1].excluded == ("203.0.113.9", *was)
    full = False
    scene.control.tick(now(3))
    assert scene.data_plane.active[1].excluded == ("203.0.113.9",)
    assert [event for event in events(scene) if event[0] == "change"] == [("change", "", 1)] * (1 + len(was))
    (row,) = scene.store.running()
    assert row.text is not None
    assert from_text(row.text).excluded == ("203.0.113.9",)
    full = True
    scene.control.apply_policy(policy(), now(4))
    assert scene.data_plane.active[1].excluded == ("203.0.113.9",)
    scene.store.close()


def test_exclusions_of_what_waits_for_approval(tmp_path: Path) -> None:
    """Nothing of it is in the data plane yet."""
    scene = Scene(tmp_path, needs_approval=True)
    scene.added()
    scene.control.apply_policy(policy(needs_approval=True, excluded=("203.0.113.9",)), now(1))
    assert [each.excluded for each in scene.control.intercepts] == [("203.0.113.9",)]
    assert scene.data_plane.installed == []
    scene.store.close()


def test_too_many_exclusions_to_keep_the_old_ones_as_well(tmp_path: Path) -> None:
    before, after = ([f"2001:db8:{at:x}::{end}/128" for at in range(600)] for end in (1, 2))
    scene = Scene(tmp_path, excluded=tuple(before))
    scene.added()
    scene.control.apply_policy(policy(excluded=tuple(after)), now(1))
    assert scene.data_plane.active[1].excluded == tuple(after)
    scene.control.apply_policy(policy(excluded=tuple(reversed(after))), now(1))
    assert scene.data_plane.active[1].excluded == tuple(reversed(after))
    scene.store.close()


def test_no_address_can_be_excluded_from_layer_2(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    circuit: dict[str, Any] = {"scope": Scope(("eth0",), is_circuit=True), "filter": FilterText()}
    first = scene.added(**circuit)
    scene.control.apply_policy(policy(excluded=("203.0.113.9",)), now(1))
    assert first not in scene.running
    error = refused(scene, **circuit)
    assert error.status is Status.IMPROPER_FILTER
    assert error.parameters == (Parameter("X-JTap-Filter-Family", "ccc"),)
    assert "203.0.113.9" not in str(error)
    scene.store.close()


# --- bounds of the whole tap ---------------------------------------------------------------------


def test_outer_sources(scene: Scene) -> None:
    narrow = replace(policy(), outer_sources=(ip_network("198.51.100.0/24"),))
    scene.control.apply_policy(narrow, now())
    scene.added(cdest_ids=("own",), deliveries=(OTHER_DELIVERY,))
    scene.added()
    foreign = replace(OTHER_DELIVERY, source_address=ip_network("203.0.113.5").network_address)
    result = scene.add(cdest_ids=("far",), deliveries=(foreign,))
    assert isinstance(result, ErrorResult)
    assert (result.status, result.parameters[0].value) == (Status.JTAP_FAILURE, "203.0.113.5")
    # Taken away, the address ends what was sent from it.
    other = replace(policy(), outer_sources=(ip_network("192.0.2.0/24"),))
    assert [each.criteria_id for each in scene.control.apply_policy(other, now())] == [1]


def test_what_lies_behind_a_tunnel_is_sent_to_from_its_own_addresses(scene: Scene) -> None:
    path = ProtectedPath((ip_network("198.51.100.1/32"),), (ip_network("203.0.113.0/27"),))
    scene.control.apply_policy(replace(policy(), protected=(path,)), now())
    behind = replace(OTHER_DELIVERY, address=ip_network("203.0.113.2/32").network_address)
    scene.added(cdest_ids=("behind",), deliveries=(behind,))
    foreign = replace(behind, source_address=ip_network("198.51.100.2/32").network_address)
    result = scene.add(cdest_ids=("foreign",), deliveries=(foreign,))
    assert isinstance(result, ErrorResult)
    assert (result.status, result.parameters[0].value) == (Status.JTAP_FAILURE, "198.51.100.2")
    # Elsewhere copies go in clear, unless policy is against it.
    scene.added(cdest_ids=("clear",), deliveries=(OTHER_DELIVERY,))
    needed = replace(policy(), protected=(path,), needs_tunnel=True)
    ended = scene.control.apply_policy(needed, now())
    assert [each.cdest_ids for each in ended] == [("clear",)]
    result = scene.add(cdest_ids=("clear",), deliveries=(OTHER_DELIVERY,))
    assert isinstance(result, ErrorResult)
    assert result.parameters[0].value == str(OTHER_DELIVERY.address)


@pytest.mark.ledger("T-196")
def test_all_control_sources_together(scene: Scene) -> None:
    scene.control.apply_policy(replace(policy(), max_criteria=2), now())
    scene.added()
    scene.added("md2")
    for login in ("md", "md2"):
        result = scene.add(login)
        assert isinstance(result, ErrorResult)
        assert (result.status, result.info) == (
            Status.MAX_CRITERIA_EXCEEDED,
            "the tap takes no more criteria",
        )


@pytest.mark.ledger("T-196")
def test_content_destinations_that_tasking_creates(scene: Scene) -> None:
    scene.control.apply_policy(replace(policy(), max_content_destinations=2), now())
    two: dict[str, Any] = {"cdest_ids": ("one", "two"), "deliveries": (OTHER_DELIVERY, OTHER_DELIVERY)}
    scene.added(**two)
    scene.added()
    # What others have is neither in the way nor to be seen.
    for at in range(2):
        scene.added("md2", cdest_ids=(f"other{at}",), deliveries=(OTHER_DELIVERY,))
    scene.added(**two)
    result = scene.add(cdest_ids=("three",), deliveries=(OTHER_DELIVERY,))
    assert isinstance(result, ErrorResult)
    assert result.status is Status.MAX_CONTENT_DESTINATIONS_EXCEEDED
    scene.delete(1)
    assert isinstance(scene.add(cdest_ids=("three",), deliveries=(OTHER_DELIVERY,)), ErrorResult)
    scene.delete(5)
    scene.added(cdest_ids=("three",), deliveries=(OTHER_DELIVERY,))


# --- orders --------------------------------------------------------------------------------------


def order(
    reference: str | None = "2026/17", end: str | None = "2026-03-02T10:01:00Z"
) -> tuple[Parameter, ...]:
    given = (("x-flowtap-order", reference), ("X-FlowTap-Order-End", end))
    return tuple(Parameter(name, value) for name, value in given if value is not None)


def test_an_order_without_end_to_speak_of(scene: Scene) -> None:
    """The end of time is later than the data plane's numbers go."""
    for end in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999-23:59", "2600-01-01T00:00:00Z"):
        scene.added(extensions=order(end=end))
    for each in scene.control.intercepts:
        assert each.order_end_ns is not None
        assert 8 * 10**18 < each.order_end_ns < 2**63
        table = FilterTable.compile(
            [Criteria(1, source="192.0.2.1", timeout_total_s=each.order_end_ns / 10**9, total_since_ns=0)]
        )
        assert len(table) == 1


def test_an_order_ends_its_intercept_static_or_not(tmp_path: Path) -> None:
    scene = Scene(tmp_path, needs_order=True)
    first = scene.added(extensions=order())
    second = scene.added(
        static=False, timeouts=Timeouts(total_s=1000), extensions=order(end="2026-03-02T12:01:00+02:00")
    )
    third = scene.added(static=False, timeouts=Timeouts(total_s=30), extensions=order())
    assert [each.order for each in scene.control.intercepts] == ["2026/17"] * 3
    assert scene.control.next_deadline_ns() == now(30).monotonic_ns
    assert [each.reason for each in scene.expire(30)] == ["total"]
    # No refresh makes an order longer.
    scene.refresh(50, cdest_id="cd1", timeouts=Timeouts(total_s=1000))
    assert scene.expire(59) == []
    assert {each.intercept.criteria_id: each.reason for each in scene.expire(60)} == {
        first: "order",
        second: "order",
    }
    assert third not in scene.running
    scene.store.close()


@pytest.mark.parametrize(
    ("extensions", "status"),
    [
        ((), Status.BAD_REQUEST),
        (order(end=None), Status.BAD_REQUEST),
        (order(reference=None), Status.BAD_REQUEST),
        (order(reference="x" * 129), Status.BAD_REQUEST),
        (order(end="tomorrow"), Status.BAD_REQUEST),
        (order(end="2026-03-02T10:01:00"), Status.BAD_REQUEST),
        (order(end="2026-03-02T10:00:00Z"), Status.IMPROPER_TIMEOUT),
    ],
)
def test_orders_that_are_none(tmp_path: Path, extensions: tuple[Parameter, ...], status: Status) -> None:
    scene = Scene(tmp_path, needs_order=True)
    assert refused(scene, extensions=extensions).status is status
    scene.store.close()


def test_an_order_may_be_named_where_none_is_needed(scene: Scene) -> None:
    scene.added(extensions=order(end=None))
    scene.added(extensions=order(reference=None))
    first, second = scene.control.intercepts
    assert (first.order, first.order_end_ns) == ("2026/17", None)
    assert (second.order, second.order_end_ns) == ("", now(60).monotonic_ns)
    assert scene.add(extensions=order(end="never")) != AddResult(3)


def test_a_wall_clock_with_a_zone(scene: Scene) -> None:
    moment = replace(now(), wall=now().wall.replace(tzinfo=UTC) + timedelta(hours=1))
    from scene import add_request  # noqa: PLC0415 - beside the moment that it needs

    result = scene.control.handle(principal(), add_request(extensions=order()), moment)
    assert isinstance(result, ErrorResult)
    assert result.status is Status.IMPROPER_TIMEOUT


# --- approval ------------------------------------------------------------------------------------


@pytest.fixture
def waiting(tmp_path: Path) -> Any:
    made = Scene(tmp_path, needs_approval=True)
    yield made
    made.store.close()


CHIEF = principal("chief", PERMISSION_APPROVE)


def states(scene: Scene) -> list[str]:
    listed = scene.list()
    assert isinstance(listed, ListResult)
    found = [{each.name: each.value for each in entry.extensions} for entry in listed.entries]
    return [each["X-FlowTap-State"] for each in found]


def test_nothing_is_copied_before_somebody_else_agrees(waiting: Scene) -> None:
    assert waiting.add() == AddResult(1)
    waiting.added(static=False, timeouts=Timeouts(idle_s=10))
    assert states(waiting) == ["pending", "pending"]
    assert waiting.data_plane.installed == []
    # Idle time does not run while nothing could match.
    assert waiting.expire(60) == []
    waiting.control.approve(CHIEF, [1, 2], now(100))
    assert states(waiting) == ["active", "active"]
    assert waiting.data_plane.installed == [(1, 2)]
    assert [each.approved_by for each in waiting.control.intercepts] == ["chief", "chief"]
    assert events(waiting) == [
        ("accept", "md", 1),
        ("accept", "md", 2),
        ("approve", "chief", 1),
        ("approve", "chief", 2),
        ("start", "md", 1),
        ("start", "md", 2),
    ]
    assert [each.reason for each in waiting.expire(110)] == ["idle"]


def test_what_waits_can_end(waiting: Scene) -> None:
    first, second, third = (
        waiting.added(),
        waiting.added(),
        waiting.added(static=False, timeouts=Timeouts(total_s=5)),
    )
    waiting.control.reject(CHIEF, [first], now(1))
    assert waiting.delete(second) == DeleteResult(1)
    assert [each.intercept.criteria_id for each in waiting.expire(5)] == [third]
    assert waiting.running == ()
    assert waiting.data_plane.installed == []
    assert waiting.store.running() == []


def test_who_may_approve_what(waiting: Scene) -> None:
    first = waiting.added()
    for who, ids, words in (
        (
            principal("chief", PERMISSION_TASK, PERMISSION_VIEW, PERMISSION_CHANGE),
            [first],
            "no permission to approve",
        ),
        (principal("md", PERMISSION_APPROVE), [first], "nobody approves what he has asked for"),
        (CHIEF, [first, 7], "criteria 7 do not wait"),
    ):
        for act in (waiting.control.approve, waiting.control.reject):
            with pytest.raises(Refused, match=words):
                act(who, ids, now())
    assert states(waiting) == ["pending"]
    waiting.control.approve(CHIEF, [first], now())
    with pytest.raises(Refused, match="do not wait"):
        waiting.control.approve(CHIEF, [first], now())


def test_an_approval_that_fails_leaves_it_waiting(waiting: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = waiting.added()
    waiting.data_plane.fails = True
    with pytest.raises(Refused, match="data plane did not take"):
        waiting.control.approve(CHIEF, [first], now())
    waiting.data_plane.fails = False
    assert states(waiting) == ["pending"]

    def failing() -> Any:
        raise PortError

    with monkeypatch.context() as patch:
        patch.setattr(waiting.store, "transaction", failing)
        with pytest.raises(Refused, match="journal could not be written"):
            waiting.control.approve(CHIEF, [first], now())
        with pytest.raises(Refused, match="copying has stopped"):
            waiting.control.reject(CHIEF, [first], now())
    assert waiting.running == ()


# --- what the operator does ----------------------------------------------------------------------

OPERATOR = principal("operator", PERMISSION_CHANGE)


def test_the_operator_ends_what_runs(scene: Scene) -> None:
    first, second = scene.added(), scene.added("md2")
    with pytest.raises(Refused, match="no permission to change"):
        scene.control.clear(principal("md"), [first], now())
    with pytest.raises(Refused, match="there are no criteria 9"):
        scene.control.clear(OPERATOR, [first, 9], now())
    scene.control.clear(OPERATOR, [first], now())
    assert scene.running == (second,)
    assert events(scene)[-1] == ("stop", "operator", first)
    scene.data_plane.fails = True
    with pytest.raises(Refused, match="may still copy"):
        scene.control.clear(OPERATOR, [second], now())
    assert scene.running == (second,)


@pytest.mark.ledger("T-057")
def test_the_operator_forgets_sequence_numbers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.control.keep_sequences({"md": 7, "md2": 8})
    with pytest.raises(Refused, match="no permission to change"):
        scene.control.reset_sequence(principal("md"), "md", now())
    with pytest.raises(Refused, match="there is no control source nobody"):
        scene.control.reset_sequence(OPERATOR, "nobody", now())
    scene.control.reset_sequence(OPERATOR, "md", now())
    assert scene.store.sequences() == {"md2": 8}
    assert events(scene) == [
        ("refuse", "md", None),
        ("refuse", "operator", None),
        ("reset", "operator", None),
    ]

    def failing() -> Any:
        raise PortError

    monkeypatch.setattr(scene.store, "transaction", failing)
    with pytest.raises(Refused, match="nothing was changed"):
        scene.control.reset_sequence(OPERATOR, "md2", now())


def test_what_is_done_to_tunnels_is_on_record_first(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for permissions in ((), (PERMISSION_VIEW,), (PERMISSION_VIEW, PERMISSION_TASK, PERMISSION_APPROVE)):
        for act in ("up", "down", "rekey", "rekey ike"):
            with pytest.raises(Refused, match="no permission to change"):
                scene.control.change_tunnel(principal("md", *permissions), "ttp", act, now(), tunnels=["ttp"])
    with pytest.raises(Refused, match="no tunnel 'other'; there are: ttp"):
        scene.control.change_tunnel(OPERATOR, "other", "up", now(), tunnels=["ttp"])
    with pytest.raises(Refused, match="there are: none"):
        scene.control.change_tunnel(OPERATOR, "ttp", "up", now(), tunnels=[])
    for act in ("down", "up", "rekey"):
        scene.control.change_tunnel(OPERATOR, "ttp", act, now(), tunnels=["ttp"])
    refusals = [("refuse", "md", None)] * 12 + [("refuse", "operator", None)] * 2
    assert events(scene) == [*refusals, *[("tunnel", "operator", None)] * 3]
    details = [dict(json.loads(row.text)["detail"]) for row in scene.store.audit_rows()][-3:]
    assert details == [{"tunnel": "ttp", "act": act} for act in ("down", "up", "rekey")]

    def failing() -> Any:
        raise PortError

    with monkeypatch.context() as full:
        full.setattr(scene.store, "transaction", failing)
        with pytest.raises(Refused, match="nothing was changed"):
            scene.control.change_tunnel(OPERATOR, "ttp", "up", now(), tunnels=["ttp"])
        # Copies are stopped all the same.
        scene.control.change_tunnel(OPERATOR, "ttp", "down", now(), tunnels=["ttp"])
    assert events(scene)[17:] == []
    scene.control.tick(now())
    assert events(scene)[17:] == [("refuse", "operator", None), ("tunnel", "operator", None)]


def test_priorities_are_shown_where_they_say_something(scene: Scene) -> None:
    scene.added(priority=1, extensions=())
    scene.added(priority=2, extensions=())
    listed = scene.list()
    assert isinstance(listed, ListResult)
    assert [entry.extensions for entry in listed.entries] == [(), (Parameter("X-FlowTap-Priority", "2"),)]


def test_a_policy_is_a_value() -> None:
    assert policy() == policy()
    assert policy().content_destinations["cd1"] == ContentDestination("cd1", DELIVERY, refuse_oversize=True)
    assert State("pending") is State.PENDING
