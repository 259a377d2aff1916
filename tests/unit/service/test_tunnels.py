"""The tunnels of a configuration, before anything of them runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sections import HOW_TO

from flowtap.cli.main import run
from flowtap.config import load
from flowtap.errors import ConfigurationError
from flowtap.service.tunnels import Tunnels

TEXT = """
[element]
interfaces = ["eth0"]
[dtcp.ssh]
host_key_file = "id"
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


def test_without_tunnels_a_reload_may_change_where_copies_would_wait(path: Path) -> None:
    tunnels = Tunnels(load(path))
    path.write_text(TEXT + '[spool]\ndirectory = "elsewhere"\n')
    tunnels.refuse_changes(load(path))
    path.write_text(TEXT + HOW_TO)
    with pytest.raises(ConfigurationError, match=r"\[tunnel\] has changed"):
        tunnels.refuse_changes(load(path))


@pytest.mark.parametrize(
    ("tunnel", "said"),
    [
        (HOW_TO, ""),
        (HOW_TO.replace("ttp", "up"), "tunnel.up: a name of at most 200 octets, other than 'up'"),
        (HOW_TO + 'esp_proposals = ["aes256gcm16-modp1"]\n', "tunnel.ttp.esp_proposals: "),
        (
            HOW_TO.replace("2.2.2.0/27", '", "'.join(f"2.2.{at}.0/24" for at in range(65)))
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
