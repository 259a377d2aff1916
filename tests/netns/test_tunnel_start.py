"""How the tap starts where something that a tunnel needs is not there yet, what shuts the gate while it runs, and
what a reload leaves as it is.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from net import PYTHON, show, until
from tapped import SSH_PORT, SUBJECT, Tapped
from topology import PASSWORD, TAP, Ipsec, ipsec, needs_root

pytestmark = [*needs_root(), pytest.mark.timeout(120)]
__all__ = ["ipsec"]


@pytest.fixture
def tapped(ipsec: Ipsec, tmp_path: Path) -> Iterator[Tapped]:
    """Everything but the daemon, which a test starts."""
    ipsec.load_peer("modern")
    made = Tapped(ipsec, tmp_path, "modern")
    yield made
    made.end()


def destinations(tapped: Tapped) -> list[str]:
    """The content destinations by name."""
    found = show(tapped.directory, "content-destinations")["content_destinations"]
    return [each["content_destination"] for each in found]


def delivers(tapped: Tapped) -> None:
    """It is tasked through the tunnel, and copies arrive."""
    tapped.until_tunnel("up", seconds=30)
    tapped.mediate()
    tapped.add(f"Source-Address: {SUBJECT}")
    tapped.send(20)
    assert tapped.until_delivered()["exported"] == 20
    assert tapped.arrived() == list(range(20))


def test_without_its_address_it_starts_and_listens_there_later(tapped: Tapped) -> None:
    ipsec = tapped.ipsec
    ipsec.net.run(ipsec.operator, "ip", "addr", "delete", f"{TAP}/32", "dev", "lo")
    tapped.start()
    assert f"DTCP listens at {TAP} port {SSH_PORT}, which is no address of this host yet" in tapped.log
    assert tapped.tunnel()["state"] != "up"
    ipsec.net.run(ipsec.operator, "ip", "addr", "add", f"{TAP}/32", "dev", "lo")
    delivers(tapped)


def test_without_strongswan_it_starts_and_says_so(tapped: Tapped) -> None:
    ipsec = tapped.ipsec
    ipsec.operator_charon.stop()
    tapped.start()
    until("it is said", lambda: "strongSwan cannot be reached" in tapped.tunnel()["reason"])
    assert tapped.tunnel()["state"] == "down"
    ipsec.operator_charon.start()
    delivers(tapped)


def test_without_its_guard_it_starts_and_sends_nothing(tapped: Tapped) -> None:
    """Somebody else has a table of that name, and nobody but him can change it."""
    ipsec = tapped.ipsec
    owner = ipsec.net.start(ipsec.operator, "nft", "-i", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert owner.stdin is not None
    owner.stdin.write("add table inet flowtap_guard { flags owner; }\n")
    owner.stdin.flush()
    until("it is his", lambda: "flowtap_guard" in ipsec.net.run(ipsec.operator, "nft", "list", "tables"))
    tapped.start()
    assert "guard of tunnels: " in tapped.log
    until("it is blocked", lambda: tapped.tunnel()["state"] == "blocked")
    assert tapped.tunnel()["guard_faults"]
    time.sleep(3)
    assert tapped.tunnel()["state"] == "blocked"
    owner.stdin.close()
    owner.wait(timeout=10)
    delivers(tapped)


def test_who_takes_the_guard_away_shuts_the_gate_at_once_and_it_comes_back(tapped: Tapped) -> None:
    """``nftables.service`` does so when it is restarted."""
    ipsec = tapped.ipsec
    tapped.start()
    tapped.until_tunnel("up")
    before = tapped.log.count("tunnel ttp is blocked")
    began = time.monotonic()
    ipsec.net.run(ipsec.operator, "nft", "flush", "ruleset")
    until("it is said", lambda: tapped.log.count("tunnel ttp is blocked") > before, 3)
    until("it is back", lambda: "flowtap_guard" in ipsec.net.run(ipsec.operator, "nft", "list", "tables"), 3)
    # It was looked at every five seconds.
    assert time.monotonic() - began < 2.5
    delivers(tapped)


SESSION = """
import asyncio, sys
from pathlib import Path
from flowtap.dtcp import NoopRequest, Version
from flowtap.mediation import Client
host, port, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
names = {"identity": directory / "id", "known_hosts": directory / "known_hosts"}
async def main():
    loop = asyncio.get_running_loop()
    async with Client.over_ssh(host, port, user="md", timeout_s=40, attempts=1, **names) as client:
        while True:
            await client.noop(NoopRequest(Version(0, 8), "", ""))
            print("answered", flush=True)
            if not await loop.run_in_executor(None, sys.stdin.readline):
                break
asyncio.run(main())
"""


def test_a_session_waits_while_the_guard_cannot_be_looked_at_and_nothing_of_it_is_lost(
    tapped: Tapped,
) -> None:
    ipsec = tapped.ipsec
    tapped.start()
    tapped.until_tunnel("up")
    words = (PYTHON, "-c", SESSION, TAP, str(SSH_PORT), str(tapped.directory))
    client = ipsec.net.start(ipsec.md, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == "answered\n"
    assert tapped.process is not None
    (guard,) = [
        int(each.parent.name)
        for each in Path("/proc").glob("[0-9]*/cmdline")
        if b"flowtap.service.guard_process" in each.read_bytes()
        and f"PPid:\t{tapped.process.pid}\n" in (each.parent / "status").read_text()
    ]
    os.kill(guard, signal.SIGSTOP)
    try:
        tapped.until_tunnel("blocked", seconds=15)
        assert "nobody could look at it" in tapped.tunnel()["reason"]
        client.stdin.write("\n")
        client.stdin.flush()
        # The association is there, so the request comes in; it is not taken up.
        time.sleep(2)
        assert select.select([client.stdout], [], [], 0)[0] == []
    finally:
        os.kill(guard, signal.SIGCONT)
    assert client.stdout.readline() == "answered\n"
    assert tapped.tunnel()["state"] == "up"
    client.stdin.close()
    assert client.wait(timeout=10) == 0


def test_a_reload_that_needs_a_restart_takes_nothing_over_and_says_so(tapped: Tapped) -> None:
    tapped.start()
    tapped.until_tunnel("up")
    path = tapped.directory / "flowtap.toml"
    text = path.read_text()

    def reload(changed: str) -> str:
        before = len(tapped.log)
        path.write_text(changed)
        assert tapped.process is not None
        tapped.process.send_signal(signal.SIGHUP)
        until("it is said", lambda: "reloaded" in tapped.log[before:])
        return tapped.log[before:]

    copies = """
[content_destination.md1]
address = "2.2.2.2"
port = 30000
source_address = "100.100.100.101"
"""
    assert "nothing of it: [tunnel] has changed" in reload(
        text.replace("dead_peer_s = 4", "dead_peer_s = 9") + copies
    )
    secret = tapped.ipsec.directory / "password"
    secret.write_text("another")
    assert "nothing of it: a secret or a certificate of [tunnel] has changed" in reload(text + copies)
    secret.write_text(PASSWORD)
    assert "nothing of it: [spool] has changed" in reload(
        text + copies + '[spool]\ndirectory = "elsewhere"\n'
    )
    # Without a directory nothing would wait at all.
    assert 'nothing of it: spool = "disk" is new' in reload(text + copies + 'spool = "disk"\n')
    assert destinations(tapped) == []
    said = reload(text.replace("[control_source.md2]", '[control_source.md2]\ntunnel = "ttp"') + copies)
    assert "the guard goes on closing the ports of DTCP that it has closed" in said
    assert "; sources and listening addresses change" in said
    assert destinations(tapped) == ["md1"]
    # The way to it is known at once, and another spool is for what begins.
    tapped.mediate()
    criteria = tapped.directory / "criteria"
    criteria.write_text(f"ADD DTCP/0.8\nCdest-ID: md1\nFlags: STATIC\nSource-Address: {SUBJECT}\n\n")
    tapped.dtcp("add", str(criteria))
    tapped.send(20)
    assert tapped.until_delivered()["exported"] == 20
    assert "content destination md1: what runs goes on" in reload(path.read_text() + 'spool = "none"\n')
