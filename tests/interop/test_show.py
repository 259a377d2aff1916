"""The local socket: the kernel says who asks, and that decides what he is told."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import ADD, FOR_EVER, OWN_KEY, V7, Tap, end, start, write_configuration

from flowtap.cli.flow_capture import flow_tap_lines
from flowtap.cli.local import ask, order
from flowtap.cli.main import run
from flowtap.dtcp import NoopRequest
from flowtap.mediation import TaskingError
from flowtap.service.auditlog import read_audit_log

MD, OFFICER, OPERATOR, NOBODY = 52_200, 52_201, 52_202, 52_203
USERS = f"""
[login.class.officer]
permissions = ["flow-tap-approval"]
[login.class.operator]
permissions = ["all"]
[login.user.officer]
class = "officer"
uid = {OFFICER}
password_hash_file = "hash"
[login.user.operator]
class = "operator"
uid = {OPERATOR}
password_hash_file = "hash"
"""

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else"),
]


def as_user(uid: int, path: Path, question: object) -> dict[str, Any]:
    """Asks as somebody else."""
    words = (
        f"import os, socket, sys; os.setgid({uid}); os.setuid({uid});"
        " s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode() + b'\\n');"
        " sys.stdout.write(s.makefile().readline())"
    )
    done = subprocess.run(
        [sys.executable, "-c", words, str(path.resolve()), json.dumps(question)],
        capture_output=True,
        check=True,
        timeout=20,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    # A directory that others may enter; pytest's own are private.
    with tempfile.TemporaryDirectory(prefix="flowtap-show-") as directory:
        Path(directory).chmod(0o755)
        show = f'{USERS}[show]\nsocket = "{directory}/tap.sock"'
        write_configuration(tmp_path, FOR_EVER, show)
        path = tmp_path / "flowtap.toml"
        text = path.read_text().replace(
            '[login.user.md]\nclass = "tasker"', f'[login.user.md]\nclass = "tasker"\nuid = {MD}'
        )
        path.write_text(
            text.replace("[control_source.md]\n", "[control_source.md]\nrequire_approval = true\n")
        )
        (tmp_path / "flowtap.sock").symlink_to(f"{directory}/tap.sock")
        running = start(tmp_path)
        assert stat.S_IMODE((Path(directory) / "tap.sock").stat().st_mode) == 0o666
        yield running
        end(running)


def add_both(tap: Tap) -> None:
    async def add() -> None:
        async with tap.client() as md, tap.client("md2", OWN_KEY) as md2:
            text = ADD.format(at=10, port=9) + "\nX-FlowTap-Order: 2026/17"
            assert (await md.request_written(text, "1")).value("criteria-id") == "1"
            assert (await md2.request_written(ADD.format(at=11, port=9), "1")).value("criteria-id") == "2"

    asyncio.run(add())


def test_a_filter_is_shown_to_its_owner_alone(tap: Tap) -> None:
    add_both(tap)
    question = {"show": "intercepts"}
    (own,) = as_user(MD, tap.socket, question)["intercepts"]
    assert (own["criteria_id"], own["filter"]) == (1, {"Source-Address": "192.0.2.10"})
    assert (own["order"], own["state"]) == ("2026/17", "pending")
    # Who approves sees what waits for him, and nothing else.
    (waiting,) = as_user(OFFICER, tap.socket, question)["intercepts"]
    assert waiting["filter"] == own["filter"]
    for uid in (0, OPERATOR):
        seen = as_user(uid, tap.socket, question)["intercepts"]
        assert [each["criteria_id"] for each in seen] == [1, 2]
        assert not any("filter" in each or "order" in each for each in seen)
        assert "192.0.2." not in json.dumps(seen)
    assert as_user(NOBODY, tap.socket, question)["refused"]


def test_accounts_are_for_those_who_may_look(tap: Tap) -> None:
    add_both(tap)
    for what in ("stats", "status", "sessions", "control-sources", "content-destinations"):
        for uid in (MD, OFFICER, NOBODY):
            assert as_user(uid, tap.socket, {"show": what})["refused"] is True, (what, uid)
        assert as_user(OPERATOR, tap.socket, {"show": what}).get("refused") is not True


def test_approved_by_somebody_else(tap: Tap, capsys: pytest.CaptureFixture[str]) -> None:
    add_both(tap)
    words = ["--socket", str(tap.socket)]
    for uid in (0, MD, OPERATOR, NOBODY):
        assert as_user(uid, tap.socket, {"do": "approve", "with": [1]})["refused"]
    assert run(["approve", "1", *words]) == 4
    assert as_user(OFFICER, tap.socket, {"do": "approve", "with": [1, 9]})["refused"]
    assert as_user(OFFICER, tap.socket, {"do": "approve", "with": [1]}) == {"approved": [1]}
    (own,) = as_user(MD, tap.socket, {"show": "intercepts"})["intercepts"]
    assert (own["state"], own["approved_by"]) == ("active", "officer")
    # What copies is the owner's again.
    assert as_user(OFFICER, tap.socket, {"show": "intercepts"})["intercepts"] == []
    tap.until("approve by officer")
    assert "approve was refused to md" in tap.log
    assert "no permission to approve" in capsys.readouterr().err


def test_what_the_operator_does(tap: Tap, capsys: pytest.CaptureFixture[str]) -> None:
    add_both(tap)
    words = ["--socket", str(tap.socket)]
    assert run(["show", "intercepts", *words]) == 0
    assert run(["show", "control-sources", *words]) == 0
    assert run(["show", "content-destinations", *words]) == 0
    assert run(["show", "sessions", *words]) == 0
    assert run(["show", "stats", *words]) == 0
    assert run(["show", "stats", "--json", *words]) == 0
    shown = capsys.readouterr().out
    for expected in ("pending", "control protocol add requests: 1", "cd10", "criteria added: 1"):
        assert expected in shown
    assert run(["reject", "1", *words]) == 4
    assert run(["clear", "criteria", "1-2", *words]) == 0
    assert run(["clear", "criteria", "1", *words]) == 4
    assert run(["clear", "criteria", "one", *words]) == 2
    assert run(["clear", "sequence-number", "md2", *words]) == 0
    assert run(["clear", "sequence-number", "nobody", *words]) == 4
    assert ask(tap.socket, "intercepts")["intercepts"] == []
    with pytest.raises(Exception, match="not of its kind"):
        order(tap.socket, "clear criteria", 7)
    with pytest.raises(Exception, match="not of its kind"):
        order(tap.socket, "clear criteria", "12")


def test_in_the_words_of_a_router(tap: Tap, capsys: pytest.CaptureFixture[str]) -> None:
    add_both(tap)

    def shown(*words: str) -> str:
        assert run(["show", *words, "--socket", str(tap.socket)]) == 0
        return capsys.readouterr().out

    source = shown("services", "dynamic-flow-capture", "control-source", "source-identifier", "md")
    assert source.startswith("Capture group: flowtap, Control source: md\n  Criteria added: 1\n")
    for expected in ("Static criteria: 1\n", "    Add: 1, Failed: 0\n", "Total: 1, Failed: 0"):
        assert expected in source
    assert "Responses" not in source
    assert "Successful: 1" in shown("dynamic-flow-capture", "control-source", "detail")
    assert len(shown("dynamic-flow-capture", "control-source", "terse").splitlines()) == 3
    destination = shown("dynamic-flow-capture", "content-destination", "destination-identifier", "cd10")
    assert destination.startswith("Capture group: flowtap, Content destination: cd10\n  Criteria: 1\n")
    statistics = shown("dynamic-flow-capture", "statistics", "capture-group", "flowtap")
    assert "    Control protocol requests: 2\n    Captured data packets: " in statistics
    assert json.loads(shown("dynamic-flow-capture", "statistics", "--json"))["stats"]["name"] == "flowtap"
    flow_tap = shown("services", "flow-tap", "source-identifier", "md")
    assert flow_tap.startswith("Control source: md, Criteria: 1\n  State: pending, Type: static")
    assert "192.0.2." not in flow_tap
    words = ["show", "dynamic-flow-capture", "statistics", "capture-group", "g", "--socket", str(tap.socket)]
    assert run(words) == 1
    assert "flowtap is the only one" in capsys.readouterr().err


def test_a_filter_is_shown_to_its_owner_in_the_words_of_a_router_too(tap: Tap) -> None:
    add_both(tap)
    own = "\n".join(flow_tap_lines(as_user(MD, tap.socket, {"show": "intercepts"})["intercepts"], "detail"))
    assert "  Source-Address: 192.0.2.10\n  Order: 2026/17\n" in own
    assert "192.0.2.11" not in own


@pytest.mark.ledger("T-057")
def test_sequence_numbers_begin_anew_when_the_operator_says_so(tap: Tap) -> None:
    """Over SSH they are checked where the configuration says so, for all sessions together."""
    end(tap)
    path = tap.directory / "flowtap.toml"
    path.write_text(
        path.read_text().replace("[control_source.md2]\n", '[control_source.md2]\nsequence = "strict"\n')
    )
    again = start(tap.directory)
    try:

        async def noop(seq: int) -> bool:
            async with again.client("md2", OWN_KEY, timeout_s=1) as client:
                try:
                    return (await client.request(NoopRequest(V7, "md2", str(seq)))).code == 200
                except TaskingError:
                    return False

        assert [asyncio.run(noop(seq)) for seq in (1000, 1001, 1001, 5)] == [True, True, False, False]
        assert again.log.count("498 Invalid Sequence Number: login md2") == 2
        assert as_user(OPERATOR, again.socket, {"do": "clear sequence-number", "with": "md2"}) == {
            "control_source": "md2"
        }
        assert [asyncio.run(noop(seq)) for seq in (5, 5, 6)] == [True, False, True]
        records = [json.loads(row.text) for row in read_audit_log(tap.directory / "flowtap.db")]
        assert [(each["event"], each["login"], each["csource_id"]) for each in records] == [
            ("reset", "operator", "md2")
        ]
    finally:
        end(again)
    tap.process = again.process


def test_questions_that_are_none(tap: Tap) -> None:
    questions: tuple[object, ...] = (
        7,
        [],
        {},
        {"show": 7},
        {"show": "everything"},
        {"do": "all"},
        "x" * 1000,
    )
    for question in questions:
        assert "ask" in as_user(0, tap.socket, question)["error"]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(tap.socket))
        silent.sendall(b"\xff\xfe\n")
        assert b"ask" in silent.makefile("rb").readline()
    with socket.socket(socket.AF_UNIX) as deep:
        deep.connect(str(tap.socket))
        deep.sendall(b"[" * 50_000 + b"\n")
        assert b"ask" in deep.makefile("rb").readline()
    assert "not of its kind" in as_user(0, tap.socket, {"do": "clear criteria", "with": [True]})["error"]
    with socket.socket(socket.AF_UNIX) as long:
        long.connect(str(tap.socket))
        long.sendall(b"x" * 100_000)
        assert long.makefile("rb").readline() == b""
    assert ask(tap.socket, "status")["error"] is None


def test_who_may_ask_nothing_leaves_no_record(tap: Tap) -> None:
    """His questions reach neither the control plane nor the audit log, and few lines of the log."""
    store = tap.directory / "flowtap.db"
    before = len(list(read_audit_log(store)))
    for at in range(20):
        answer = as_user(NOBODY, tap.socket, {"do": "clear criteria", "with": [at + 10**9]})
        assert answer["refused"] is True
        assert str(10**9) not in answer["error"]
    assert len(list(read_audit_log(store))) == before
    assert "1000000000" not in tap.log


def test_idle_connections_to_the_socket_keep_nobody_out(tap: Tap) -> None:
    """Somebody without any permission takes a few places; the next ones are closed at once."""
    words = (
        f"import os, socket, sys; os.setgid({NOBODY}); os.setuid({NOBODY}); held = []\n"
        "for _ in range(300):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    before = len(list(Path(f"/proc/{tap.process.pid}/fd").iterdir()))
    with subprocess.Popen(
        [sys.executable, "-c", words, str(tap.socket.resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as idle:
        try:
            assert idle.stdout is not None
            assert idle.stdout.readline() == b"ready\n"
            assert ask(tap.socket, "status")["error"] is None
            assert len(list(Path(f"/proc/{tap.process.pid}/fd").iterdir())) - before < 16
        finally:
            idle.kill()
    assert f"questions of uid {NOBODY} are too many" in tap.log


def test_who_may_no_longer_task_is_logged_out(tap: Tap) -> None:
    async def until_closed() -> None:
        async with tap.client() as client:
            assert len(ask(tap.socket, "sessions")["sessions"]) == 1
            await asyncio.to_thread(
                tap.reload, 'permissions = ["flow-tap-operation"]', 'permissions = ["flow-tap"]'
            )
            assert client._reader is not None
            async with asyncio.timeout(5):
                assert await client._reader.read(1) == b""

    asyncio.run(until_closed())


@pytest.mark.ledger("T-016")
def test_a_login_that_may_come_from_elsewhere_only(tap: Tap) -> None:
    tap.reload("[control_source.md]\n", '[control_source.md]\naddresses = ["192.0.2.0/24"]\n')

    async def log_in() -> None:
        async with tap.client():
            pytest.fail("was let in")

    with pytest.raises(Exception, match="did not accept"):
        asyncio.run(log_in())
    assert tap.openssh("-s", "flow-tap-dtcp").returncode != 0
    assert "login md from 127.0.0.1: not one of its addresses" in tap.log
