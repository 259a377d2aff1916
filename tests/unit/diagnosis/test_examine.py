"""What firewalls have to let in, here and on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from sections import HOW_TO

from flowtap.config import load
from flowtap.diagnosis.examine import openings, openings_before

CONFIGURATION = """
[element]
interfaces = ["eth0"]
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.user.md]
class = "tasker"
password_hash_file = "hash"
[control_source.md]
{source}
[dtcp.ssh]
listen = ["{listen}:32001"]
host_key_file = "host_key"
"""
ALWAYS = ["UDP 500", "UDP 4500", "ESP"]


@pytest.mark.parametrize(
    ("source", "listen", "before"),
    [
        ('tunnel = "ttp"', "100.100.100.101", ALWAYS),
        ('tunnel = "ttp"', "0.0.0.0", ["TCP 32001", *ALWAYS]),
        ("", "100.100.100.101", ["TCP 32001", *ALWAYS]),
    ],
)
def test_what_comes_through_a_tunnel_passes_firewalls_before_this_host_unseen(
    source: str, listen: str, before: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "flowtap.toml"
    path.write_text(CONFIGURATION.format(source=source, listen=listen) + HOW_TO)
    configuration = load(path)
    assert list(map(str, openings_before(configuration))) == before
    assert list(map(str, openings(configuration))) == ["TCP 32001", *ALWAYS]
