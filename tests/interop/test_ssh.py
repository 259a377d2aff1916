"""The daemon as its clients see it: OpenSSH's own program, and ours."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from daemon import ADD, FOR_EVER, KEY, ONCE, OWN_KEY, V7, Tap, end, running, start, write_configuration

from flowtap import Receiver
from flowtap.cli.local import ask
from flowtap.cli.main import run
from flowtap.dtcp import ListRequest, NoopRequest
from flowtap.dtcp.render import render_request, sign
from flowtap.dtcp.reply import parse_reply
from flowtap.mediation import TaskingError
from flowtap.service.auditlog import read_audit_log

pytestmark = pytest.mark.interop


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    with running(tmp_path, ONCE) as tap:
        yield tap


def wait_until_played(directory: Path) -> None:
    deadline = time.monotonic() + 10
    while not ask(directory / "flowtap.sock", "status")["finished"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.ledger("T-030")
def test_the_whole_way(tap: Tap, tmp_path: Path) -> None:
    """Logged in, tasked, matched, sent, received, listed, deleted; and every account agrees."""
    (tmp_path / "received").mkdir()
    receiver = Receiver([("127.0.0.1", 0)], str(tmp_path / "received"))
    port = receiver.addresses[0][1]

    async def task() -> None:
        async with tap.client() as client:
            reply = await client.request_written(ADD.format(at=10, port=port), "1")
            assert (reply.code, reply.value("CRITERIA-ID")) == (200, "1")
            await asyncio.to_thread(wait_until_played, tmp_path)
            listed = await client.request(ListRequest(V7, "md", "2", stats=True))
            assert len(listed.entries) == 1
            values = {each.name: each.value for each in listed.entries[0]}
            stats = ask(tmp_path / "flowtap.sock", "stats")
            assert values["MATCHING-PACKETS"] == str(stats["criteria"][0]["packets"])
            assert values["X-JTAP-CDEST-DEST-PORT"] == str(port)
            deleted = await client.request_written("DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: STATIC", "3")
            assert deleted.value("Criteria-Count") == "1"

    before = time.monotonic()
    asyncio.run(task())
    stats = ask(tmp_path / "flowtap.sock", "stats")
    assert stats["copied"] == stats["exported"] + stats["dropped"] + stats["in_queue"] > 0
    while receiver.packets < stats["exported"] and time.monotonic() - before < 10:
        receiver.poll(0.1)
    receiver.close()
    assert receiver.packets == stats["exported"]
    assert [row[1:3] for row in receiver.streams] == [(40001, port)]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
def test_openssh(tap: Tap) -> None:
    """What the vendor's own client does: the subsystem by ssh -s, several requests with one Seq."""
    requests = b"".join(
        sign(f"{text}\r\nCsource-ID: md\r\nSeq: 1\r\n".replace("\n", "\r\n").replace("\r\r", "\r"), KEY)
        for text in (ADD.format(at=1, port=9), ADD.format(at=2, port=9), "LIST DTCP/0.7\nFlags:  BOTH")
    )
    done = tap.openssh("-s", "flow-tap-dtcp", data=requests)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert text.startswith("DTCP/0.7 200 OK\r\nSEQ: 1\r\nCRITERIA-ID: 1\r\nTIMESTAMP: ")
    replies = text.split("\r\n\r\n")
    assert len(replies) == 4
    assert replies[3] == ""
    assert replies[2].count("CRITERIA-ID: ") == 2
    assert "CRITERIA-NUM" in replies[2]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
@pytest.mark.parametrize("words", [("id",), (), ("-s", "sftp"), ("-tt",)], ids=str)
def test_nothing_but_tasking(tap: Tap, words: tuple[str, ...]) -> None:
    done = tap.openssh(*words)
    assert done.returncode != 0
    assert done.stdout == b""


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
def test_no_forwarding(tap: Tap) -> None:
    done = tap.openssh("-W", f"127.0.0.1:{tap.port}")
    assert done.returncode != 0
    assert b"SSH-2.0" not in done.stdout


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
def test_a_class_that_may_not_task(tap: Tap) -> None:
    done = tap.openssh("-s", "flow-tap-dtcp", user="reader")
    assert done.returncode != 0
    assert "its class may not task" in tap.log


@pytest.mark.ledger("T-046", "T-063")
def test_a_wrong_digest_gets_no_answer_and_is_logged(tap: Tap) -> None:
    async def ask_wrongly() -> None:
        async with tap.client(timeout_s=0.7) as client:
            with pytest.raises(TaskingError, match="no answer"):
                await client.exchange(render_request(NoopRequest(V7, "md", "1"), OWN_KEY), "1")
            reply = await client.request(NoopRequest(V7, "md", "2"))
            assert (reply.code, reply.seq) == (200, "2")
            with pytest.raises(TaskingError, match="no answer"):
                await client.exchange(render_request(NoopRequest(V7, "md2", "1"), OWN_KEY), "1")

    asyncio.run(ask_wrongly())
    assert "497 Invalid Authentication: login md from 127.0.0.1" in tap.log
    assert "499 Unknown Control Source Identifier" in tap.log


def test_who_is_not_let_in(tap: Tap) -> None:
    async def log_in(user: str, password: str) -> None:
        async with tap.client(user=user, password=password):
            pytest.fail("was let in")

    for user, password in (("md", "wrong"), ("nobody", "right")):
        with pytest.raises(TaskingError, match="did not accept"):
            asyncio.run(log_in(user, password))
    assert "wrong password or user from 127.0.0.1" in tap.log


@pytest.mark.ledger("T-040", "T-042", "T-063", "T-131")
def test_control_sources_see_only_their_own(tap: Tap) -> None:
    async def both() -> None:
        async with tap.client() as md, tap.client("md2", OWN_KEY) as md2:
            assert (await md.request_written(ADD.format(at=1, port=9), "1")).value("criteria-id") == "1"
            assert (await md2.request_written(ADD.format(at=2, port=9), "1")).value("criteria-id") == "2"
            assert len((await md2.request(ListRequest(V7, "md2", "2"))).entries) == 1
            reply = await md2.request_written("DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: Static", "3")
            assert reply.code == 431
            reply = await md2.request_written("DELETE DTCP/0.7\nCdest-ID: cd1\nFlags: Static", "4")
            assert reply.code == 430
            assert len((await md.request(ListRequest(V7, "md", "2"))).entries) == 1

    asyncio.run(both())


@pytest.mark.ledger("T-001")
def test_a_thousand_criteria_in_one_reply(tap: Tap) -> None:
    async def many() -> None:
        async with tap.client(timeout_s=20) as client:
            writer = client._writer
            assert writer is not None
            for at in range(1100):
                lines = ADD.format(at=1, port=9).replace("\n", "\r\n")
                writer.write(sign(f"{lines}\r\nCsource-ID: md\r\nSeq: {at}\r\n", KEY))
            ids = [(await client._reply()).value("criteria-id") for _ in range(1100)]
            assert ids == [str(number) for number in range(1, 1101)]
            listed = await client.request(ListRequest(V7, "md", "1", stats=True))
            assert len(listed.entries) == 1100

    asyncio.run(many())


@pytest.mark.ledger("T-002")
def test_a_restart_goes_on_with_what_ran_and_says_so(tmp_path: Path) -> None:
    write_configuration(tmp_path, FOR_EVER)
    first = start(tmp_path)

    async def add() -> None:
        async with first.client() as client:
            assert (await client.request_written(ADD.format(at=10, port=9), "1")).code == 200
            brief = ADD.format(at=10, port=9).replace("Flags: STATIC", "Timeout-Total: 1")
            assert (await client.request_written(brief, "2")).code == 200

    asyncio.run(add())
    first.process.kill()
    first.process.wait()
    (tmp_path / "log").unlink()
    # The other criterion's time runs out while nothing runs.
    time.sleep(1.1)
    second = start(tmp_path)
    try:
        assert "md: Server Restart: Alert-Info restarted; 1 of 2 criteria restored; not copying" in second.log
        deadline = time.monotonic() + 10
        while not ask(tmp_path / "flowtap.sock", "stats")["copied"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        async def add_again() -> None:
            async with second.client() as client:
                (entry,) = (await client.request(ListRequest(V7, "md", "1"))).entries
                values = {each.name: each.value for each in entry}
                assert (values["CRITERIA-ID"], values["SOURCE-ADDRESS"]) == ("1", "192.0.2.10")
                reply = await client.request_written(ADD.format(at=1, port=9), "2")
                assert reply.value("criteria-id") == "3"

        asyncio.run(add_again())
    finally:
        end(second)


@pytest.mark.ledger("T-002")
def test_without_a_journal_a_restart_ends_everything_and_says_so(tmp_path: Path) -> None:
    """As the draft has it: nothing is kept, and every control source that had criteria is told [DTCP §5.18]."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(10)
        write_configuration(tmp_path, FOR_EVER, "[store]\njournal = false\n")
        path = tmp_path / "flowtap.toml"
        target = f'[control_source.md]\nnotification_targets = ["127.0.0.1:{ear.getsockname()[1]}"]\n'
        path.write_text(path.read_text().replace("[control_source.md]\n", target))
        first = start(tmp_path)

        async def add() -> None:
            async with first.client() as client:
                for seq in ("1", "2"):
                    assert (await client.request_written(ADD.format(at=10, port=9), seq)).code == 200

        asyncio.run(add())
        first.process.kill()
        first.process.wait()
        second = start(tmp_path)
        try:
            told = parse_reply(ear.recv(65_536), KEY)
            assert (told.code, told.seq) == (599, None)
            info = told.value("Alert-Info") or ""
            assert info.startswith("restarted; 0 of 2 criteria restored; not copying ")
            assert ask(tmp_path / "flowtap.sock", "intercepts")["intercepts"] == []
            assert ask(tmp_path / "flowtap.sock", "stats")["criteria"] == []

            async def add_again() -> None:
                async with second.client() as client:
                    assert (await client.request(ListRequest(V7, "md", "1"))).entries == ()
                    # The ids of what has ended are not given again.
                    reply = await client.request_written(ADD.format(at=1, port=9), "2")
                    assert reply.value("criteria-id") == "3"

            asyncio.run(add_again())
        finally:
            end(second)
    events = [
        (record["event"], record["criteria_id"])
        for row in read_audit_log(tmp_path / "flowtap.db")
        if (record := json.loads(row.text))["event"] in {"start", "stop"}
    ]
    assert events == [("start", 1), ("start", 2), ("stop", 1), ("stop", 2), ("start", 3)]
    # Nothing that names the subject lies in the journal's own table.
    with closing(sqlite3.connect(tmp_path / "flowtap.db")) as database:
        assert database.execute("SELECT count(content) FROM intercepts").fetchone() == (0,)


def test_the_command_line_client(tap: Tap, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "password").write_text("right\n")
    (tmp_path / "criteria.txt").write_text(
        ADD.format(at=1, port=9) + "\n\n" + ADD.format(at=2, port=9) + "\n"
    )
    words = [
        *(
            "dtcp",
            "--ssh",
            f"127.0.0.1:{tap.port}",
            "--user",
            "md",
            "--password-file",
            str(tmp_path / "password"),
        ),
        *("--known-hosts", str(tmp_path / "known_hosts")),
    ]
    assert run([*words, "add", str(tmp_path / "criteria.txt")]) == 0
    assert run([*words, "noop"]) == 0
    assert run([*words, "--json", "list"]) == 0
    assert run([*words, "refresh", "1-2", "Timeout-Idle=60"]) == 0
    assert run([*words, "refresh", "1", "Timeout-Idle=0"]) == 1
    assert run([*words, "refresh", "1", "600"]) == 2
    assert run([*words, "delete", "1"]) == 0
    assert run([*words, "delete", "1"]) == 1
    assert run([*words, "delete", "--cdest", "cd2", "--static"]) == 0
    assert run([*words, "list", "--ids", "*", "--flags", "Stats"]) == 0
    output = capsys.readouterr()
    assert output.out.count("200 OK  CRITERIA-ID: ") == 2
    assert "431 Unknown Criteria ID" in output.out
    assert '"criteria-id": "2"' in output.out
    assert run([*words, "send", str(tmp_path / "nothing")]) == 2
    assert run(["show", "stats", "--socket", str(tmp_path / "flowtap.sock")]) == 0
    assert run(["show", "status", "--socket", str(tmp_path / "none.sock")]) == 1
    assert "flowtap: " in capsys.readouterr().err


def test_reload(tap: Tap) -> None:
    """HUP takes over logins and control sources; a wrong file changes nothing."""
    path = tap.directory / "flowtap.toml"

    async def one(user: str) -> int:
        async with tap.client(user) as client:
            return (await client.request_written(ADD.format(at=1, port=9), "1")).code

    def reload(words: str) -> None:
        tap.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while words not in tap.log:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    assert asyncio.run(one("md")) == 200
    good = path.read_text()
    path.write_text(good + "colour = 1\n")
    reload("not reloaded")
    path.write_text(
        good.replace("[control_source.md]\n", "[control_source.md]\nmax_criteria = 1\n")
        .replace("user.md2]", "user.md3]")
        .replace("control_source.md2]", "control_source.md3]")
    )
    reload("reloaded ")
    assert asyncio.run(one("md")) == 550
    with pytest.raises(TaskingError, match="did not accept"):
        asyncio.run(one("md2"))
    tap.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while "frames, " not in tap.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)
