"""strongSwan takes the settings that the program prints, and gives a peer up when they say."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from net import PYTHON, Net, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

CONFIGURATION = """
[element]
interfaces = ["eth0"]
[dtcp.ssh]
host_key_file = "key"
[tunnel.ttp]
local_gateway = "192.0.2.1"
remote_gateway = "192.0.2.2"
local_networks = ["192.0.2.1"]
remote_networks = ["198.51.100.0/24"]
pre_shared_key_file = "psk"
vici_socket = "vici"
dpd_delay_s = 1
dead_peer_s = 4
"""
# Besides what is printed, what a daemon in a test needs: plugins, no journal, a log.
REST = """
charon-systemd {{
  load = random nonce openssl hmac kdf kernel-netlink socket-default vici
  journal {{ default = -1 }}
  filelog {{ f {{ path = {log}
                flush_line = yes }} }}
}}
"""
CONNECTION = """
connections { away { version = 2
  local_addrs = 192.0.2.1
  remote_addrs = 192.0.2.2
  keyingtries = 1
  local { auth = psk }
  remote { auth = psk }
  children { c { remote_ts = 198.51.100.0/24 } } } }
secrets { ike { secret = "x" } }
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    # A path that a local socket can have.
    with TemporaryDirectory(prefix="ft") as made:
        yield Path(made)


def test_a_peer_is_given_up_in_time(directory: Path) -> None:
    (directory / "flowtap.toml").write_text(CONFIGURATION)
    settings = subprocess.run(
        [
            *(PYTHON, "-m", "flowtap", "config", "strongswan"),
            *("--config", str(directory / "flowtap.toml"), "--group", "nogroup"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    log, vici = directory / "log", directory / "vici"
    (directory / "strongswan.conf").write_text(settings + REST.format(log=log))
    (directory / "swanctl.conf").write_text(CONNECTION)
    with Net() as net:
        inside = net.namespace("c")
        # Whoever is asked does not answer.
        net.veth((inside, "e0", "192.0.2.1/24"), (net.namespace("p"), "e0", ""))
        net.run(inside, "ip", "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:01", "dev", "e0")
        charon = net.start(
            inside,
            *("env", f"STRONGSWAN_CONF={directory / 'strongswan.conf'}", "/usr/sbin/charon-systemd"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until("strongSwan is there", vici.exists)
        assert vici.stat().st_gid == 65_534
        assert stat.S_IMODE(vici.stat().st_mode) == 0o770
        words = ["--file", str(directory / "swanctl.conf"), "--noprompt", "--uri", f"unix://{vici}"]
        net.run(inside, "swanctl", "--load-all", *words)
        began = time.monotonic()
        subprocess.run(
            [
                *("ip", "netns", "exec", inside, "swanctl", "--initiate", "--child", "c"),
                *("--uri", f"unix://{vici}", "--timeout", "20"),
            ],
            capture_output=True,
            check=False,
            timeout=30,
        )
        took_s = time.monotonic() - began
        assert charon.poll() is None
    (tries,) = re.findall(r"giving up after (\d+) retransmits", log.read_text())
    assert int(tries) == 1
    # dead_peer_s without dpd_delay_s; by itself it would be 165 s.
    assert 2.5 < took_s < 3.0
