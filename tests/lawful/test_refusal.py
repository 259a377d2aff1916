"""A refusal raises, it is no boolean that somebody may forget to look at; and every refusal is on record."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemon import ADD, FOR_EVER, OWN_KEY, Tap, running
from scene import OTHER_DELIVERY, V7, Scene, add_request, now, policy, principal

from flowtap.control import (
    PERMISSION_APPROVE,
    PERMISSION_CHANGE,
    PERMISSION_TASK,
    PERMISSION_VIEW,
    ControlPlane,
    Misread,
    Refused,
    authorize,
)
from flowtap.dtcp import (
    DeleteRequest,
    ErrorResult,
    FilterText,
    IdRange,
    ListRequest,
    NoopRequest,
    Parameter,
    RefreshRequest,
    Status,
    Timeouts,
)
from flowtap.service.auditlog import read_audit_log
from flowtap.service.filters import FilterSpace

DECISIONS = [
    getattr(authorize, name) for name in authorize.__all__ if inspect.isfunction(getattr(authorize, name))
]


@pytest.mark.parametrize("decide", DECISIONS, ids=lambda decide: str(decide.__name__))
def test_no_decision_is_a_boolean(decide: Callable[..., Any]) -> None:
    """What decides hands out what was allowed, or nothing; whether it was allowed is not its value."""
    assert inspect.signature(decide).return_annotation not in {"bool", "bool | None"}
    documented = inspect.getdoc(decide) or ""
    if decide.__name__ not in {"unknown_destination", "minimised"}:
        assert "Refused:" in documented


def test_there_are_decisions_to_look_at() -> None:
    assert len(DECISIONS) >= 10


def ids(*numbers: int) -> tuple[IdRange, ...]:
    return tuple(IdRange(each, each, single=True) for each in numbers)


NARROW: dict[str, Any] = {
    "allowed_destinations": frozenset({"cd1"}),
    "allowed_space": FilterSpace(["192.0.2.0/24"]),
    "excluded": ("192.0.2.99/32",),
    "narrowest_v4": 24,
    "max_criteria": 1,
    "max_lifetime_s": 60,
    "needs_order": True,
}
ORDER = (
    Parameter("X-FlowTap-Order", "2026/17"),
    Parameter("X-FlowTap-Order-End", "2026-03-02T11:00:00Z"),
)


@pytest.mark.parametrize(
    ("who", "request_", "status"),
    [
        (principal("md", PERMISSION_VIEW, PERMISSION_CHANGE, PERMISSION_APPROVE), add_request(), 400),
        (principal("md2"), add_request("md"), 400),
        (principal("md"), add_request("nobody"), 400),
        (principal(), add_request(extensions=()), 400),
        (principal(), add_request(extensions=ORDER[:1]), 400),
        (
            principal(),
            add_request(extensions=(ORDER[0], replace(ORDER[1], value="2020-01-01T00:00:00Z"))),
            433,
        ),
        (principal(), add_request(extensions=ORDER, static=False), 433),
        (principal(), add_request(extensions=ORDER, static=False, timeouts=Timeouts(total_s=61)), 433),
        (principal(), add_request(extensions=ORDER, cdest_ids=("own",), deliveries=(OTHER_DELIVERY,)), 430),
        (principal(), add_request(extensions=ORDER, deliveries=(OTHER_DELIVERY,)), 901),
        (principal(), add_request(extensions=ORDER, filter=FilterText(source="198.51.100.1")), 432),
        (principal(), add_request(extensions=ORDER, filter=FilterText(source="192.0.2.99")), 432),
        (principal(), add_request(extensions=ORDER, filter=FilterText()), 432),
        (principal(), add_request(extensions=ORDER, filter=FilterText(source="here")), 400),
        (principal("md2"), DeleteRequest(V7, "md2", "1", criteria_ids=ids(9)), 431),
        (principal("md2"), DeleteRequest(V7, "md", "1", cdest_id="cd1"), 400),
        (principal("md2"), RefreshRequest(V7, "md2", "1", Timeouts(idle_s=5), criteria_ids=ids(9)), 431),
        (principal(), RefreshRequest(V7, "md", "1", Timeouts(total_s=61), cdest_id="cd1"), 433),
        (principal("md2"), ListRequest(V7, "md2", "1", cdest_id="nowhere"), 430),
        (principal("md2", PERMISSION_VIEW), ListRequest(V7, "md2", "1"), 400),
        (principal("md2", PERMISSION_VIEW), NoopRequest(V7, "md2", "1"), 400),
    ],
)
def test_every_refused_request_is_on_record(tmp_path: Path, who: Any, request_: Any, status: int) -> None:
    """Who asked from where for what, for whom, and why he did not get it; and nothing has changed."""
    scene = Scene(tmp_path, **NARROW)
    if isinstance(request_, RefreshRequest) and request_.cdest_id:
        scene.added(extensions=ORDER)
    before = len(list(scene.store.audit_rows()))
    installed = list(scene.data_plane.installed)
    result = scene.control.handle(who, request_, now(5))
    assert isinstance(result, ErrorResult)
    assert result.status == status
    assert scene.data_plane.installed == installed
    *_, last = (json.loads(row.text) for row in scene.store.audit_rows())
    assert len(list(scene.store.audit_rows())) == before + 1
    assert (last["event"], last["login"], last["csource_id"]) == ("refuse", who.login, request_.csource_id)
    assert last["when"] == now(5).wall.isoformat()
    detail = dict(last["detail"])
    method = type(request_).__name__.removesuffix("Request").upper()
    assert (detail["request"], detail["status"], detail["address"]) == (method, str(status), "192.0.2.10")
    assert detail["reason"] == result.info
    scene.store.close()


def test_one_too_many_is_on_record(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_criteria=1)
    scene.added()
    result = scene.add()
    assert isinstance(result, ErrorResult)
    *_, last = (json.loads(row.text) for row in scene.store.audit_rows())
    assert (last["event"], dict(last["detail"])["status"]) == ("refuse", "550")
    scene.store.close()


CHIEF = principal("chief", PERMISSION_APPROVE)
OPERATOR = principal("operator", PERMISSION_CHANGE)


@pytest.mark.parametrize(
    ("who", "act", "about"),
    [
        (principal("md", PERMISSION_TASK, PERMISSION_VIEW, PERMISSION_CHANGE), ControlPlane.approve, [1]),
        (principal("md", PERMISSION_APPROVE), ControlPlane.approve, [1]),
        (CHIEF, ControlPlane.approve, [1, 9]),
        (principal("md", PERMISSION_APPROVE), ControlPlane.reject, [1]),
        (principal("chief", PERMISSION_VIEW), ControlPlane.reject, [1]),
        (CHIEF, ControlPlane.clear, [1]),
        (OPERATOR, ControlPlane.clear, [9]),
        (CHIEF, ControlPlane.reset_sequence, "md"),
        (OPERATOR, ControlPlane.reset_sequence, "nobody"),
    ],
)
def test_what_the_operator_s_own_people_may_not_raises_and_is_on_record(
    tmp_path: Path, who: Any, act: Callable[..., None], about: Any
) -> None:
    scene = Scene(tmp_path, needs_approval=True)
    scene.added()
    before = scene.control.intercepts
    with pytest.raises(Refused) as caught:
        act(scene.control, who, about, now(5))
    assert scene.control.intercepts == before
    assert scene.data_plane.installed == []
    *_, last = (json.loads(row.text) for row in scene.store.audit_rows())
    assert (last["event"], last["login"]) == ("refuse", who.login)
    detail = dict(last["detail"])
    assert detail["about"] == str(about)
    assert detail["reason"] == caught.value.info
    assert detail["act"] in {"approve", "reject", "clear criteria", "clear sequence-number"}
    scene.store.close()


def test_a_refusal_is_on_record_even_where_the_journal_could_not_be_written_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with scene.store._engine.connect() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used}")
    many = [Misread(principal(), "md", "ADD", ErrorResult(Status.BAD_REQUEST, info="x" * 500))] * 200
    scene.control.misread(many, now())
    assert list(scene.store.audit_rows()) == []
    with scene.store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    scene.expire(1)
    assert len(list(scene.store.audit_rows())) == 200
    scene.store.close()


# --- the same with the daemon ----------------------------------------------------------------------------------------


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    with running(tmp_path, FOR_EVER) as tap:
        yield tap


@pytest.mark.interop
def test_what_a_daemon_refuses_is_in_its_audit_log(tap: Tap, tmp_path: Path) -> None:
    """Whether the request makes no sense, cannot be read, is of no version, or is not for him."""
    refused = [
        ("ADD DTCP/0.7\nCdest-ID: nowhere\nFlags: STATIC", 430, "ADD"),
        ("ADD DTCP/0.7\nrubbish", 400, "ADD"),
        ("ADD DTCP/9.9\nFlags: STATIC", 505, "ADD"),
        ("STEAL DTCP/0.7", 501, "STEAL"),
        ("rubbish", 400, "rubbish"),
        (ADD.format(at=1, port=9) + "\nX-UserName: somebody", 901, "ADD"),
        (ADD.format(at=1, port=9).replace("192.0.2.1", "192.0.2.1/33"), 432, "ADD"),
        ("DELETE DTCP/0.7\nCriteria-ID: 7", 431, "DELETE"),
        ("LIST DTCP/0.7\nCriteria-ID: 7", 431, "LIST"),
        ("REFRESH DTCP/0.7\nCriteria-ID: 7\nTimeout-Idle: 0", 433, "REFRESH"),
    ]

    async def task() -> None:
        async with tap.client("md2", OWN_KEY) as client:
            for seq, (text, code, _) in enumerate(refused):
                assert (await client.request_written(text, str(seq))).code == code, text

    asyncio.run(task())
    records = [json.loads(row.text) for row in read_audit_log(tmp_path / "flowtap.db")]
    assert len(records) == len(refused)
    for record, (_, code, method) in zip(records, refused, strict=True):
        assert (record["event"], record["login"], record["csource_id"]) == ("refuse", "md2", "md2")
        detail = dict(record["detail"])
        assert (detail["request"], detail["status"], detail["address"]) == (method, str(code), "127.0.0.1")


@pytest.mark.interop
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_an_act_that_a_daemon_refuses_over_its_socket_is_in_its_audit_log(tap: Tap, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowtap", "approve", "1", "--socket", str(tap.socket)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 4
    (record,) = [json.loads(row.text) for row in read_audit_log(tmp_path / "flowtap.db")]
    assert (record["event"], record["login"]) == ("refuse", "uid 0")
    assert dict(record["detail"])["act"] == "approve"


def test_another_policy_refuses_from_then_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.control.apply_policy(replace(policy(), max_criteria=0), now())
    assert isinstance(scene.add(), ErrorResult)
    scene.store.close()
