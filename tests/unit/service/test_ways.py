"""Who must come through a tunnel is not heard on any other way, nor while that is down."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from sections import HOW_TO

from flowtap.config import load
from flowtap.service.logins import Logins

TEXT = """
[element]
interfaces = ["eth0"]
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.user.md]
class = "tasker"
authorized_keys_file = "id.pub"
[login.user.clear]
class = "tasker"
authorized_keys_file = "id.pub"
[control_source.md]
tunnel = "ttp"
addresses = ["2.2.2.0/28", "192.0.2.0/24"]
[control_source.clear]
[dtcp.ssh]
host_key_file = "id"
"""


@dataclass
class Way:
    is_open: bool = False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    path = tmp_path / "flowtap.toml"
    path.write_text(TEXT + HOW_TO)
    return path


def test_who_comes_through_a_tunnel_comes_from_behind_it(path: Path) -> None:
    logins = Logins(load(path), {"ttp": Way(is_open=True)})
    expected = {
        address: logins.may_come_from("md", ip_address(address))
        for address in ("2.2.2.2", "2.2.2.17", "192.0.2.1", "2001:db8::1")
    }
    assert expected == {"2.2.2.2": True, "2.2.2.17": False, "192.0.2.1": False, "2001:db8::1": False}
    assert logins.may_come_from("clear", ip_address("192.0.2.1"))


def test_nothing_is_heard_of_him_while_it_is_down(path: Path) -> None:
    way = Way()
    logins = Logins(load(path), {"ttp": way})
    heard = [(logins.may_be_heard("md"), logins.may_be_heard("clear"))]
    way.is_open = True
    heard.append((logins.may_be_heard("md"), logins.may_be_heard("clear")))
    # A tunnel that nobody keeps is never up.
    heard.append((Logins(load(path)).may_be_heard("md"), True))
    assert heard == [(False, True), (True, True), (False, True)]
