"""Who may do what with tunnels over the local socket."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from flowtap.cli.main import run
from flowtap.config import load
from flowtap.control import PERMISSION_CHANGE, PERMISSION_TASK, PERMISSION_VIEW, PortError, Principal, Refused
from flowtap.errors import ConfigurationError
from flowtap.service.tunnels import Tunnels

TEXT = """
[element]
interfaces = ["eth0"]
[dtcp.ssh]
host_key_file = "id"
"""
TUNNEL = """
[tunnel.ttp]
local_gateway = "192.0.2.1"
remote_gateway = "192.0.2.2"
local_networks = ["192.0.2.3"]
remote_networks = ["2.2.2.0/27"]
pre_shared_key_file = "psk"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    path = tmp_path / "flowtap.toml"
    path.write_text(TEXT)
    secret = tmp_path / "psk"
    secret.write_text("secret")
    secret.chmod(0o600)
    return path


def principal(*permissions: str) -> Principal:
    return Principal("operator", frozenset(permissions), ip_address("127.0.0.1"))


@pytest.mark.asyncio
async def test_whoever_may_only_look_or_task_changes_no_tunnel(path: Path) -> None:
    tunnels = Tunnels(load(path))
    for permissions in ((), (PERMISSION_VIEW,), (PERMISSION_VIEW, PERMISSION_TASK)):
        for do in ("up", "down", "rekey", "rekey ike"):
            with pytest.raises(Refused):
                await tunnels.act(principal(*permissions), {"name": "ttp", "do": do})
    with pytest.raises(PortError, match="there are: none"):
        await tunnels.act(principal(PERMISSION_CHANGE), {"name": "ttp", "do": "down"})


@pytest.mark.asyncio
@pytest.mark.parametrize("argument", [None, "ttp", [], {}, {"name": "ttp", "do": "unload"}, {"do": ["up"]}])
async def test_what_cannot_be_done_is_said(path: Path, argument: object) -> None:
    with pytest.raises(TypeError, match="up, down, rekey, rekey ike"):
        await Tunnels(load(path)).act(principal(PERMISSION_CHANGE), argument)


def test_without_tunnels_a_reload_may_change_where_copies_would_wait(path: Path) -> None:
    tunnels = Tunnels(load(path))
    path.write_text(TEXT + '[spool]\ndirectory = "elsewhere"\n')
    tunnels.refuse_changes(load(path))
    path.write_text(TEXT + TUNNEL)
    with pytest.raises(ConfigurationError, match=r"\[tunnel\] has changed"):
        tunnels.refuse_changes(load(path))


@pytest.mark.parametrize(
    ("tunnel", "said"),
    [
        (TUNNEL, ""),
        (TUNNEL.replace("ttp", "up"), "tunnel.up: a name of at most 200 octets, other than 'up'"),
        (TUNNEL + 'esp_proposals = ["aes256gcm16-modp1"]\n', "tunnel.ttp.esp_proposals: "),
        (
            TUNNEL.replace("2.2.2.0/27", '", "'.join(f"2.2.{at}.0/24" for at in range(65)))
            + "ike_version = 1\nlegacy = true\n",
            "tunnel.ttp.remote_networks: IKEv1 negotiates 65 pairs",
        ),
    ],
)
def test_config_check_finds_what_strongswan_could_not_be_told(
    path: Path, capsys: pytest.CaptureFixture[str], tunnel: str, said: str
) -> None:
    path.write_text(TEXT + tunnel)
    assert run(["config", "check", str(path)]) == (3 if said else 0)
    assert said in capsys.readouterr().err
