"""The clients that there are, as they send and as they read: four of the vendor's, retold with the libraries they use."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from daemon import FOR_EVER, KEY, Tap, running

from flowtap.dtcp.authentication import digest

pytestmark = pytest.mark.interop

INTERFACES = Path(__file__).parents[1] / "captures" / "interfaces.pcapng"


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    with running(tmp_path, FOR_EVER) as tap:
        yield tap


def signed(lines: list[str]) -> bytes:
    """What every one of them does to its lines: CRLF, the fixed key, an empty line."""
    text = "".join(f"{line}\r\n" for line in lines)
    return f"{text}Authentication-Info: {digest(text.encode(), KEY)}\r\n\r\n".encode()


# --- the command-line client of 2006 ---------------------------------------------------------------------------------

FILE = """ADD DTCP/0.6
Csource-ID: md
Cdest-ID: cd1
Source-Address: 192.0.2.1
X-JTap-Cdest-Dest-Address: 127.0.0.1
X-JTap-Cdest-Dest-Port: 9
X-JTap-Cdest-Source-Address: 127.0.0.1
X-JTap-Cdest-Source-Port: 65534
Flags: STATIC

LIST DTCP/0.6
Csource-ID: md
Flags: BOTH

"""


class Terminal:
    """A raw terminal with ssh behind it, as an Expect program has it."""

    def __init__(self, tap: Tap) -> None:
        options = ["-F", "none", "-o", f"UserKnownHostsFile={tap.directory / 'known_hosts'}"]
        words = ["ssh", *options, "-l", "md", "-p", str(tap.port), "127.0.0.1", "-s", "flow-tap-dtcp"]
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            tty.setraw(0)
            os.execvp("ssh", words)  # noqa: S606 - as the client starts it
        self.seen = b""

    def until(self, words: bytes, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.seen += os.read(self.terminal, 65_536)

    def send(self, data: bytes) -> None:
        os.write(self.terminal, data)

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.process, 0)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
def test_the_command_line_client_of_the_vendor(tap: Tap) -> None:
    """A password at the prompt, then messages out of a file, all with one number, whatever is said in between."""
    client = Terminal(tap)
    client.until(b"assword:")
    client.send(b"right\n")
    tap.until("login md from")
    # It does not wait for a greeting: there is none.
    assert client.seen.count(b"\n") <= 1
    for message in FILE.split("\n\n")[:2]:
        client.send(signed([*message.splitlines(), "Seq: 12"]))
        time.sleep(0.3)
    client.until(b"CRITERIA-NUM: 1")
    client.close()
    text = client.seen.decode()
    assert re.search(r"DTCP/0\.6 200 OK\r\nSEQ: 12\r\nCRITERIA-ID: 1\r\nTIMESTAMP: ", text)
    assert "SOURCE-ADDRESS: 192.0.2.1" in text


# --- the test library for taps, one connection a request -------------------------------------------------------------


def connected(tap: Tap) -> paramiko.Transport:
    transport = paramiko.Transport(("127.0.0.1", tap.port))
    transport.connect(username="md", password="right")
    return transport


def one_request(tap: Tap, lines: list[str]) -> tuple[int, str]:
    """Sends one message in one piece, waits, reads once, and looks at the first status line of what it got."""
    transport = connected(tap)
    channel = transport.open_session()
    channel.invoke_subsystem("flow-tap-dtcp")
    channel.send(signed([*lines, "Seq: 1"]))
    time.sleep(0.5)
    reply = channel.recv(2048).decode()
    channel.close()
    transport.close()
    for line in reply.split("\n"):
        found = re.match(r"DTCP/\d.\d\s(\d+)\s(.*)", line.strip())
        if found:
            return int(found[1]), reply
    pytest.fail(f"no status line in {reply!r}")


def tap_add(at: int, *extra: str, version: str = "0.7", cdest: str = "cd1", l3: bool = True) -> list[str]:
    two = cdest.count(",") + 1
    filters = [
        f"Source-Address: 192.0.2.{at}",
        "Dest-Address: *",
        "Source-Port: *",
        "Dest-Port: *",
    ]
    return [
        f"ADD DTCP/{version}",
        "Csource-ID: md",
        f"Cdest-ID: {cdest}",
        *(filters if l3 else []),
        "Protocol: 17" if l3 else "Priority: 2",
        "Priority: 2",
        "X-JTap-Cdest-Dest-Address: " + ",".join(["127.0.0.1"] * two),
        "X-JTap-Cdest-Dest-Port: " + ",".join(str(9 + each) for each in range(two)),
        "X-JTap-Cdest-Source-Address: 127.0.0.1",
        "X-JTap-Cdest-Source-Port: 49153",
        *extra,
        "X-JTap-Cdest-TTL: 64",
        "Flags: STATIC",
    ]


def test_one_connection_a_request(tap: Tap) -> None:
    assert one_request(tap, tap_add(1))[0] == 200
    assert one_request(tap, tap_add(2, cdest="cd1,cd2"))[0] == 200
    assert one_request(tap, tap_add(3, cdest="cd1,cd2,cd3"))[0] == 400
    six = [
        line.replace("192.0.2.4", "2001:db8::4")
        for line in tap_add(4, "X-JTap-IP-Version: ipv6", version="0.8")
    ]
    assert one_request(tap, six)[0] == 200
    # A prefix as Python's ip_network writes it.
    assert one_request(tap, [line.replace("192.0.2.5", "198.51.100.0/24") for line in tap_add(5)])[0] == 200
    # What was added from one connection is there for the next; names in any spelling, two blanks.
    code, text = one_request(tap, ["LIST DTCP/0.7", "Csource-ID: md", "CDest-ID: cd1", "Flags:  Criteria"])
    assert (code, text.count("CRITERIA-ID: ")) == (200, 4)
    code, text = one_request(tap, ["LIST DTCP/0.7", "Csource-ID: md", "CDest-ID: cd1,cd2", "Flags: BOTH"])
    assert code == 400
    assert one_request(tap, ["LIST DTCP/0.7", "Csource-ID: md"])[0] == 200
    assert (
        one_request(tap, ["DELETE DTCP/0.7", "Csource-ID: md", "Criteria-ID: 1", "Flags: STATIC"])[0] == 200
    )
    assert (
        one_request(tap, ["DELETE DTCP/0.7", "Csource-ID: md", "CDest-ID: cd1,cd2", "Flags: STATIC"])[0]
        == 400
    )
    code, text = one_request(tap, ["DELETE DTCP/0.7", "Csource-ID: md", "CDest-ID: cd1", "Flags: STATIC"])
    assert (code, re.findall(r"CRITERIA-COUNT: (\d+)", text)) == (200, ["3"])


def test_what_it_expects_to_be_refused(tap: Tap) -> None:
    """Its negative tests, and a subscriber's request, which would tap everybody here."""
    assert one_request(tap, tap_add(1, "X-Jtap-Filter-Family: ccc", version="0.8"))[0] != 200
    subscriber = [line for line in tap_add(1) if not line.startswith(("Source-", "Dest-", "Protocol"))]
    triggers = ["X-UserName: somebody", "X-Logical-System: default", "X-Router-Instance: default"]
    assert (
        one_request(tap, [*subscriber[:-1], *triggers, "X-MD-Intercept-Id: 41414141", subscriber[-1]])[0]
        == 901
    )
    assert (
        one_request(tap, ["ENABLE DTCP/0.8", "Csource-ID: md", "Criteria-ID: 1", "Flags: STATIC"])[0] == 501
    )


def test_one_channel_for_many_requests_with_one_number(tap: Tap) -> None:
    transport = connected(tap)
    channel = transport.open_session()
    channel.invoke_subsystem("flow-tap-dtcp")
    for at in range(1, 6):
        channel.send(signed([*tap_add(at), "Seq: 1"]))
        assert re.search(rf"DTCP/0\.7 200 OK\r\nSEQ: 1\r\nCRITERIA-ID: {at}\r\n", channel.recv(2048).decode())
    transport.close()


# --- the same with interfaces, routing instances and circuits --------------------------------------------------------

LINE_CARD = "ge-1/3/5"
UNITS = range(8)
ROUTER = f"""files = ["{INTERFACES}"]
pace = 500
loop = true
interfaces = ["access", {", ".join(f'"access.{unit}"' for unit in UNITS[1:])}, "core"]
[element.interface_names]
"{LINE_CARD}" = "access"
[element.vrf."{LINE_CARD}_1"]
interfaces = ["access"]
[element.vrf."{LINE_CARD}_2"]
interfaces = ["access.1"]
"""


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Tap]:
    """A replay of what two of a router's interfaces have seen."""
    with running(tmp_path, ROUTER) as tap:
        yield tap


def everybody(*extra: str, version: str = "0.8") -> list[str]:
    """The wildcards that it writes where no address is asked for."""
    return [line.replace("192.0.2.0", "*").replace("17", "*") for line in tap_add(0, *extra, version=version)]


def test_eight_interfaces_in_one_request_and_an_instance_each_in_others(router: Tap) -> None:
    eight = ",".join(f"{LINE_CARD}.{unit}" for unit in UNITS)
    transport = connected(router)
    channel = transport.open_session()
    channel.invoke_subsystem("flow-tap-dtcp")

    def ask(lines: list[str]) -> tuple[int, str]:
        channel.send(signed([*lines, "Seq: 1"]))
        reply = channel.recv(2048).decode()
        found = re.match(r"DTCP/\d.\d\s(\d+)\s(.*)", reply)
        assert found, reply
        return int(found[1]), reply

    circuit = tap_add(
        0, f"X-JTap-Output-Interface: {LINE_CARD}.0", "X-Jtap-Filter-Family: ccc", version="0.8", l3=False
    )
    accepted = [
        everybody(f"X-JTap-Input-Interface: {eight}"),
        everybody(f"X-JTap-Output-Interface: {eight}"),
        everybody(f"X-JTap-VRF-Name: {LINE_CARD}_1"),
        everybody(f"X-JTap-VRF-Name: {LINE_CARD}_2"),
        everybody(f"X-JTap-Input-Interface: {LINE_CARD}.0", "X-JTap-IP-Version: ipv6"),
        # Layer-2 filters have no addresses at all.
        tap_add(
            0, f"X-JTap-Input-Interface: {LINE_CARD}.0", "X-Jtap-Filter-Family: ccc", version="0.8", l3=False
        ),
        [*circuit[:3], "Protocol: *", *circuit[3:]],
    ]
    for at, lines in enumerate(accepted, start=1):
        code, reply = ask(lines)
        assert (code, f"CRITERIA-ID: {at}\r\n" in reply) == (200, True), reply
    refused = [
        # A protocol is one of layer 3; without it the criterion would be wider than was asked for.
        ([*circuit[:3], "Protocol: 17", *circuit[3:]], 400),
        (everybody(f"X-JTap-Input-Interface: {eight},{LINE_CARD}.8"), 901),
        (everybody(f"X-JTap-Input-Interface: {LINE_CARD}.8"), 901),
        (everybody(f"X-JTap-VRF-Name: {LINE_CARD}_9"), 901),
        (
            everybody(f"X-JTap-VRF-Name: {LINE_CARD}_1", f"X-JTap-Input-Interface: {LINE_CARD}.0"),
            432,
        ),
    ]
    assert [ask(lines)[0] for lines, _ in refused] == [code for _, code in refused]

    def counted() -> list[int]:
        channel.send(signed(["LIST DTCP/0.8", "Csource-ID: md", "Flags: BOTH", "Seq: 1"]))
        reply = channel.recv(490 << 10).decode()
        return [int(each) for each in re.findall(r"MATCHING-PACKETS: (\d+)", reply)]

    deadline = time.monotonic() + 15
    wanted = [True, False, True, False, True, True, False]
    while [count > 0 for count in counted()] != wanted:
        assert time.monotonic() < deadline, counted()
        time.sleep(0.2)
    channel.send(signed(["LIST DTCP/0.8", "Csource-ID: md", "Flags: Criteria", "Seq: 1"]))
    listed = channel.recv(490 << 10).decode()
    assert f"X-JTAP-INPUT-INTERFACE: {eight}\r\n" in listed
    assert f"X-JTAP-VRF-NAME: {LINE_CARD}_2\r\n" in listed
    assert "X-JTAP-FILTER-FAMILY: ccc\r\n" in listed
    transport.close()


# --- the library for scale tests: two connections at once, very many criteria ----------------------------------------


class Suite:
    """One connection; a number that counts up; waits until there is something, then reads once."""

    def __init__(self, tap: Tap) -> None:
        self.client = paramiko.SSHClient()
        self.client.load_host_keys(str(tap.directory / "known_hosts"))
        self.client.connect(
            "127.0.0.1",
            port=tap.port,
            username="md",
            password="right",
            look_for_keys=False,
            allow_agent=False,
        )
        transport = self.client.get_transport()
        assert transport is not None
        self.channel = transport.open_session()
        self.channel.invoke_subsystem("flow-tap-dtcp")
        self.seq = 1

    def command(self, *lines: str) -> list[int]:
        self.channel.send(signed([*lines, f"Seq: {self.seq}"]))
        for _ in range(3000):
            if self.channel.recv_ready():
                break
            time.sleep(0.01)
        text = self.channel.recv(490 << 10).decode()
        assert "200 OK" in text, text
        self.seq += 1
        if "CRITERIA-NUM" in text:
            return [int(each) for each in re.findall(r"CRITERIA-ID:\s*(\d+)", text)]
        if "ADD" in lines[0]:
            found = re.search(r"CRITERIA-ID:\s*(\d+)", text)
            assert found
            return [int(found[1])]
        return []

    def add(self, at: int) -> int:
        (number,) = self.command(
            "ADD DTCP/0.7",
            "Csource-ID: md",
            "Cdest-ID: md1",
            "Priority: 2",
            f"Source-Address: 198.51.{at // 250}.{at % 250}",
            "X-JTap-Cdest-Dest-Address: 127.0.0.1",
            "X-JTap-Cdest-Dest-Port: 9",
            "X-JTap-Cdest-Source-Address: 127.0.0.1",
            "X-JTap-Cdest-Source-Port: 12321",
            "X-MD-Intercept-Id: 001122334455667788",
            "Flags: STATIC",
        )
        return number

    def close(self) -> None:
        self.client.close()


def test_a_list_of_more_than_a_thousand_comes_in_one_piece(tap: Tap) -> None:
    suite = Suite(tap)
    for at in range(1030):
        assert suite.add(at) == at + 1
    time.sleep(0.1)
    suite.channel.send(
        signed(["LIST DTCP/0.7", "Csource-ID: md", "Cdest-ID: md1", "Flags: BOTH", "Seq: 5000"])
    )
    # Its reader takes what is there when something is; a pause of a second stands in front of it.
    while not suite.channel.recv_ready():
        time.sleep(0.01)
    time.sleep(1)
    text = suite.channel.recv(4 << 20).decode()
    assert len(re.findall(r"CRITERIA-ID:\s*(\d+)", text)) == 1030
    assert text.endswith("\r\n\r\n")
    suite.close()


def test_two_connections_add_and_delete_at_once(tap: Tap) -> None:
    failures: list[BaseException] = []
    kept: list[int] = []

    def work(offset: int) -> None:
        try:
            suite = Suite(tap)
            for at in range(40):
                number = suite.add(offset + at)
                if at % 2:
                    suite.command(
                        "DELETE DTCP/0.7", "Csource-ID: md", f"CRITERIA-ID: {number}", "Flags: STATIC"
                    )
                else:
                    kept.append(number)
            suite.close()
        except BaseException as error:  # noqa: BLE001 - the main thread shows it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    suite = Suite(tap)
    listed = suite.command("LIST DTCP/0.7", "Csource-ID: md", "Cdest-ID: md1", "Flags: BOTH")
    assert sorted(listed) == sorted(kept)
    assert len(set(listed)) == 40
    suite.command("DELETE DTCP/0.7", "Csource-ID: md", "Cdest-ID: md1", "Flags: STATIC")
    assert suite.command("LIST DTCP/0.7", "Csource-ID: md", "Flags: BOTH") == []
    suite.close()
