"""The configuration that the project starts from, as it stood on a router, drives a tap with its tunnel."""

from __future__ import annotations

import subprocess
from pathlib import Path

from net import PYTHON
from tapped import SSH_PORT, SUBJECT, Tapped
from topology import TAP, Ipsec, ipsec, needs_root

from flowtap.cli.local import ask

pytestmark = needs_root()
__all__ = ["ipsec"]

HOW_TO = Path(__file__).parents[1] / "configurations" / "how-to.conf"
NAME = "To-TTP-Company"


def flowtap(*words: str, data: str | None = None) -> str:
    done = subprocess.run(
        [PYTHON, "-m", "flowtap", *words], input=data, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_the_router_s_configuration_taps_and_tunnels(ipsec: Ipsec, tmp_path: Path) -> None:
    folder = tmp_path / "tap"
    said = flowtap(
        "config", "import-junos", str(HOW_TO), "--interface", "ge-0/0/0=op0", "--output", str(folder)
    )
    assert "ft-ttp" in said
    path = folder / "flowtap.toml"
    flowtap("config", "check", str(path))
    flowtap("config", "set-password", "ft-ttp", "--config", str(path), data="a better one\n")
    (folder / "password").write_text("a better one\n")
    (folder / "password").chmod(0o600)
    # What no router has said: where strongSwan is, and that here its ESP has a device.
    here = f'vici_socket = "{ipsec.operator_charon.socket}"\ninterface = "ipsec0"\n'
    text = path.read_text()
    assert f"[tunnel.{NAME}]\n" in text
    path.write_text(text.replace(f"[tunnel.{NAME}]\n", f"[tunnel.{NAME}]\n{here}"))
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(folder / "host_key")], capture_output=True, text=True, check=True
    )
    (folder / "known_hosts").write_text(f"[{TAP}]:{SSH_PORT} {public.stdout}")
    ipsec.load_peer("how_to")
    observer = ipsec.observer()
    tapped = Tapped(ipsec, folder, None)
    tapped.user, tapped.credentials = "ft-ttp", ("--password-file", str(folder / "password"))
    tapped.start()
    tapped.until_tunnel("up")
    tapped.mediate()
    tapped.add("X-JTap-Input-Interface: ge-0/0/0", f"Dest-Address: {SUBJECT}", "Dest-Port: 9000")
    ipsec.net.send_udp(ipsec.internet, SUBJECT, 60, port=9000)
    account = tapped.until_delivered()
    assert (account["copied"], account["exported"]) == (60, 60)
    shown = flowtap("show", "ipsec", "security-associations", "--socket", str(folder / "flowtap.sock"))
    # The how-to's lines; the interface inside is that of strongSwan's ESP in user space, with its MTU.
    assert [line.strip() for line in shown.splitlines() if ": " in line] == [
        "Service set: IPSEC-TTP-Company-1, IKE Routing-instance: default",
        "Rule: To-TTP-Company, Term: 1, Tunnel index: 1",
        "Local gateway: 100.100.100.100, Remote gateway: 123.123.123.123",
        "IPSec inside interface: ipsec0, Tunnel MTU: 1400",
    ]
    rows = [line.split() for line in shown.splitlines()]
    assert ["Direction", "SPI", "AUX-SPI", "Mode", "Type", "Protocol"] in rows
    for direction in ("inbound", "outbound"):
        (row,) = [row for row in rows if row[:1] == [direction]]
        assert (int(row[1]) > 0, row[2:]) == (True, ["0", "tunnel", "dynamic", "ESP"])
    ike = flowtap("show", "ike", "security-associations", "--socket", str(folder / "flowtap.sock"))
    (line,) = [each.split() for each in ike.splitlines() if "123.123.123.123" in each]
    assert (line[0], line[1], line[-1]) == ("123.123.123.123", "Matured", "Main")
    assert ask(folder / "flowtap.sock", "status")["exclusion"] == "proven"
    assert observer.in_clear() == []
    tapped.end()
    assert tapped.arrived() == list(range(60))
