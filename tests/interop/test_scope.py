"""Criteria by interface, routing instance, family and layer 2, on a capture of a router with two interfaces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import KEY, Tap, end, start, write_configuration

from flowtap.cli.local import ask, order
from flowtap.dtcp.render import sign

pytestmark = pytest.mark.interop

CAPTURE = Path(__file__).parents[1] / "captures" / "interfaces.pcapng"
# The capture has 32 frames of each; half of all frames are IPv4, half IPv6.
SOURCE = f"""files = ["{CAPTURE}"]
pace = "fast"
wait_for_criteria = true
interfaces = ["access", "core", "core.5"]
[element.vrf.RED]
interfaces = ["core"]
[element.interface_names]
"ge-1/0/3" = "access"
"""
ADD = """ADD DTCP/0.8
Cdest-ID: cd1
Flags: STATIC
X-JTap-Cdest-Dest-Address: 127.0.0.1
X-JTap-Cdest-Dest-Port: 9
X-JTap-Cdest-Source-Address: 127.0.0.1
X-JTap-Cdest-Source-Port: 40001
"""
IN = "X-JTap-Input-Interface"
OUT = "X-JTap-Output-Interface"
SCOPES = {
    "": 64,
    f"{IN}: access": 32,
    f"{IN}: ge-1/0/3": 32,
    f"{IN}: ge-1/0/3.0": 32,
    f"{IN}: core.0, access": 64,
    f"{IN}: core.5": 0,
    f"{OUT}: core": 0,
    f"{IN}: core\n{OUT}: access": 32,
    "X-JTap-VRF-Name: RED": 32,
    "X-JTap-IP-Version: ipv6": 32,
    "X-JTap-IP-Version: ipv4": 32,
    f"X-Jtap-Filter-Family: ccc\n{IN}: core": 32,
}
REFUSED = {
    f"{IN}: ge-9/9/9.0": 901,
    f"{IN}: access,eth0": 901,
    f"{OUT}: access.7": 901,
    f"{IN}: a,b,c,d,e,f,g,h,i": 901,
    "X-JTap-VRF-Name: BLUE": 901,
    f"X-JTap-VRF-Name: RED\n{IN}: core": 432,
    "X-Jtap-Filter-Family: ccc\nSource-Address: 192.0.2.1": 400,
    "X-JTap-IP-Version: 6": 901,
}


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    # One approval lets all of them begin with the same frame.
    officer = (
        '[login.class.officer]\npermissions = ["flow-tap-approval", "flow-tap"]\n'
        f'[login.user.officer]\nclass = "officer"\nuid = {os.geteuid()}\npassword_hash_file = "hash"\n'
    )
    write_configuration(tmp_path, SOURCE, officer)
    path = tmp_path / "flowtap.toml"
    text = path.read_text().replace("[control_source.md]\n", "[control_source.md]\nrequire_approval = true\n")
    path.write_text(text)
    running = start(tmp_path)
    yield running
    end(running)


def requests(texts: list[str]) -> bytes:
    return b"".join(
        sign(f"{ADD}{text}\nCsource-ID: md\nSeq: 1\n".replace("\n\n", "\n"), KEY) for text in texts
    )


@pytest.mark.ledger("T-193", "T-194")
def test_every_scope_counts_its_packets(tap: Tap) -> None:
    done = tap.openssh("-s", "flow-tap-dtcp", data=requests(list(SCOPES)))
    assert done.stdout.count(b"200 OK") == len(SCOPES), done.stdout
    order(tap.socket, "approve", list(range(1, len(SCOPES) + 1)))
    deadline = time.monotonic() + 10
    while not ask(tap.socket, "status")["finished"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    listing = sign("LIST DTCP/0.8\nCsource-ID: md\nFlags: BOTH\nSeq: 2\n", KEY)
    listed = tap.openssh("-s", "flow-tap-dtcp", data=listing).stdout.decode()
    counted = [int(each) for each in re.findall(r"MATCHING-PACKETS: (\d+)", listed)]
    assert counted == list(SCOPES.values())
    assert f"{IN.upper()}: core.0, access" in listed
    assert "X-JTAP-VRF-NAME: RED" in listed


@pytest.mark.ledger("T-193", "T-194", "T-195")
def test_what_is_not_there_is_refused(tap: Tap) -> None:
    done = tap.openssh("-s", "flow-tap-dtcp", data=requests(list(REFUSED)))
    codes = [int(code) for code in re.findall(r"^DTCP/0.8 (\d+) ", done.stdout.decode(), re.MULTILINE)]
    assert codes == list(REFUSED.values())


def test_the_same_offline(tmp_path: Path) -> None:
    """A capture's interfaces are those that it names."""
    criteria = tmp_path / "criteria"
    texts = [text for text in SCOPES if "VRF" not in text and "ge-" not in text and ".0" not in text]
    criteria.write_text("\n".join(f"{ADD}{text}\n" for text in texts))
    words = [sys.executable, "-m", "flowtap"]
    options = [str(CAPTURE), "--criteria", str(criteria), "--json"]
    replayed = subprocess.run([*words, "replay", *options], capture_output=True, check=True, timeout=60)
    counted = [each["packets"] for each in json.loads(replayed.stdout)["criteria"]]
    assert counted == [SCOPES[text] for text in texts]
    explained = subprocess.run([*words, "explain", *options], capture_output=True, check=True, timeout=60)
    lines = [json.loads(line) for line in explained.stdout.splitlines()]
    for at, text in enumerate(texts, start=1):
        assert sum(at in line["matched"] for line in lines) == SCOPES[text]
    output = {each["id"]: each["field"] for each in lines[0]["rejected"]}
    assert output[texts.index(f"{OUT}: core") + 1] == "interface"


def test_a_routing_instance_is_none_of_a_capture(tmp_path: Path) -> None:
    criteria = tmp_path / "criteria"
    criteria.write_text(f"{ADD}X-JTap-VRF-Name: RED\n")
    words = [sys.executable, "-m", "flowtap", "replay", str(CAPTURE), "--criteria", str(criteria)]
    done = subprocess.run(words, capture_output=True, check=False, timeout=60, text=True)
    assert done.returncode == 3
    assert "line 8: X-JTap-VRF-Name: a capture knows no routing instances" in done.stderr
