"""Nobody taps whom somebody entitled has not let: logins, permissions, a second person, and a record of all of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from daemon import ADD, FOR_EVER, OWN_KEY, Tap, end, start, write_configuration
from scene import Scene, add_request, now, principal

from flowtap.cli.local import ask
from flowtap.cli.main import run
from flowtap.config import load
from flowtap.config.schema import Permission
from flowtap.control import (
    PERMISSION_APPROVE,
    PERMISSION_CHANGE,
    PERMISSION_TASK,
    PERMISSION_VIEW,
    Refused,
)
from flowtap.dtcp import AddResult, ErrorResult, Status
from flowtap.mediation import TaskingError
from flowtap.service.auditlog import read_audit_log
from flowtap.service.logins import Logins

ALL = (PERMISSION_VIEW, PERMISSION_CHANGE, PERMISSION_TASK, PERMISSION_APPROVE)


@pytest.mark.parametrize(
    "permissions", [each for count in range(5) for each in itertools.combinations(ALL, count)], ids=str
)
def test_only_the_permission_to_task_lets_task(tmp_path: Path, permissions: tuple[str, ...]) -> None:
    """No other permission contains it, nor do all the others together."""
    scene = Scene(tmp_path)
    result = scene.control.handle(principal("md", *permissions, "none"), add_request(), now())
    if PERMISSION_TASK in permissions:
        assert result == AddResult(1)
    else:
        assert isinstance(result, ErrorResult)
        assert result.status is Status.BAD_REQUEST
        assert scene.data_plane.installed == []
    scene.store.close()


@pytest.mark.parametrize("permission", [*get_args(Permission)])
def test_what_a_class_may_is_what_it_says(tmp_path: Path, permission: str) -> None:
    """`all` is to look and to change: never to task, never to approve."""
    write_configuration(tmp_path, FOR_EVER)
    path = tmp_path / "flowtap.toml"
    path.write_text(path.read_text().replace('["flow-tap", "flow-tap-control"]', f'["{permission}"]'))
    login = Logins(load(path)).get("reader")
    assert login is not None
    expected = {PERMISSION_VIEW, PERMISSION_CHANGE} if permission == "all" else {permission}
    assert login.permissions == expected


def test_a_login_acts_for_itself_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for login, csource_id in (("md", "md2"), ("md2", "md"), ("md", "nobody"), ("nobody", "md"), ("", "md")):
        result = scene.control.handle(principal(login), add_request(csource_id), now())
        assert isinstance(result, ErrorResult)
    assert scene.running == ()
    scene.store.close()


def test_what_needs_a_second_person_needs_another_one(tmp_path: Path) -> None:
    """Whatever else he may: who has asked does not approve, and without approval nothing is copied."""
    scene = Scene(tmp_path, needs_approval=True)
    scene.added()
    with pytest.raises(Refused, match="nobody approves what he has asked for"):
        scene.control.approve(principal("md", *ALL), [1], now())
    assert scene.data_plane.installed == []
    scene.control.approve(principal("chief", PERMISSION_APPROVE), [1], now())
    assert scene.data_plane.installed == [(1,)]
    records = [json.loads(row.text) for row in scene.store.audit_rows()]
    assert [(each["event"], each["login"]) for each in records] == [
        ("accept", "md"),
        ("refuse", "md"),
        ("approve", "chief"),
        ("start", "md"),
    ]
    scene.store.close()


# --- the same with the daemon ----------------------------------------------------------------------------------------


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    write_configuration(tmp_path, FOR_EVER, f'[audit]\nanchor_file = "{tmp_path / "anchors"}"')
    path = tmp_path / "flowtap.toml"
    text = path.read_text().replace('["flow-tap", "flow-tap-control"]', '["all"]')
    path.write_text(text + '[control_source.reader]\nkey_file = "own.key"\n')
    running = start(tmp_path)
    yield running
    end(running)


@pytest.mark.interop
def test_who_may_everything_but_task_cannot_task(tap: Tap) -> None:
    """With the right password and a control source of his own name; every other way in is shut as well."""

    async def task() -> None:
        async with tap.client("reader", OWN_KEY) as client:
            await client.request_written(ADD.format(at=1, port=9), "1")

    with pytest.raises(TaskingError, match="does not let reader task"):
        asyncio.run(task())
    assert "its class may not task" in tap.log
    assert ask(tap.socket, "intercepts")["intercepts"] == []
    assert list(read_audit_log(tap.directory / "flowtap.db")) == []


@pytest.mark.interop
def test_the_record_cannot_be_changed_unseen(tap: Tap, capsys: pytest.CaptureFixture[str]) -> None:
    """A record that is altered, taken out, or cut off the end is found; nobody else can read the store at all."""

    async def task() -> None:
        async with tap.client("md2", OWN_KEY) as client:
            for seq in range(1, 6):
                assert (await client.request_written(ADD.format(at=seq, port=9), str(seq))).code == 200

    asyncio.run(task())
    store = tap.directory / "flowtap.db"
    for path in tap.directory.glob("flowtap.db*"):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path
    words = ["audit", "verify", "--store", str(store), "--anchors", str(tap.directory / "anchors")]
    assert run(words) == 0
    end(tap)
    import sqlite3  # noqa: PLC0415 - only here, as somebody who wants to change the record has it

    original = store.read_bytes()
    for statement in (
        "UPDATE audit SET text = replace(text, '192.0.2.3', '192.0.2.4') WHERE number = 3",
        "DELETE FROM audit WHERE number = 3",
        "DELETE FROM audit WHERE number = 5",
    ):
        store.write_bytes(original)
        with sqlite3.connect(store) as forger:
            assert forger.execute(statement).rowcount == 1
        forger.close()
        assert run(words) == 1, statement
    assert "record" in capsys.readouterr().err
