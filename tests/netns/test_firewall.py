"""What is said of a firewall, against what it does: real rules, as nft prints them, and real packets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from net import Net

from flowtap.diagnosis.finding import Verdict
from flowtap.diagnosis.firewall import Opening, blocked

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]
ADDRESS = "192.0.2.1"
OPENINGS = (Opening("tcp", 32001, (4,)), Opening("udp", 1814, (4,)), Opening("udp", 500, (4,)))
LISTEN = """
import select, socket
heard = []
for kind, port in ((socket.SOCK_STREAM, 32001), (socket.SOCK_DGRAM, 1814), (socket.SOCK_DGRAM, 500)):
    s = socket.socket(socket.AF_INET, kind)
    s.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        s.listen()
    heard.append(s)
print("ready", flush=True)
while True:
    for s in select.select(heard, [], [])[0]:
        if s.type == socket.SOCK_DGRAM:
            data, peer = s.recvfrom(100)
            s.sendto(data, peer)
        else:
            s.accept()[0].close()
"""
KNOCK = """
import json, socket, sys
answered = []
for name, kind, port in json.load(sys.stdin):
    with socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(0.3)
        try:
            s.connect(("192.0.2.1", port))
            if kind == socket.SOCK_DGRAM:
                s.send(b"x")
                s.recv(10)
            answered.append(name)
        except OSError:
            pass
print(json.dumps(answered))
"""
HEAD = "table inet filter {{ {extra} chain input {{ type filter hook input priority 0; policy {policy};"
RULES = {
    "nothing": ("", "accept", "", ["TCP 32001", "UDP 1814", "UDP 500"]),
    "drop": ("", "drop", "ct state established,related accept; iifname lo accept;", []),
    "some": (
        "",
        "drop",
        "tcp dport { 22, 32001 } accept; udp dport 400-600 accept;",
        ["TCP 32001", "UDP 500"],
    ),
    "other protocol": ("", "drop", "udp dport 32001 accept; tcp dport 500 accept;", []),
    "a set": (
        "set ports { type inet_service; elements = { 22, 32001 }; };",
        "drop",
        "tcp dport @ports accept; udp dport @ports accept; udp dport { 1814 } accept;",
        ["TCP 32001", "UDP 1814"],
    ),
    "new": ("", "drop", "ct state new udp dport 1814 counter accept;", ["UDP 1814"]),
    "not": ("", "accept", "tcp dport != 22 drop; udp dport 500 drop;", ["UDP 1814"]),
    "last drop": ("", "accept", 'meta l4proto tcp accept; log prefix "in " drop;', ["TCP 32001"]),
    "reject": ("", "accept", "udp dport 1814 accept; reject;", ["UDP 1814"]),
    "order": ("", "accept", "udp dport 1814 drop; udp dport 1814 accept;", ["TCP 32001", "UDP 500"]),
    "jump": (
        "chain control { udp dport 1814 accept; tcp dport 32001 return; tcp dport 32001 drop; };",
        "drop",
        "jump control; tcp dport 32001 accept;",
        ["TCP 32001", "UDP 1814"],
    ),
    "family": ("", "drop", "meta nfproto ipv4 udp dport 500 accept; meta nfproto ipv6 accept;", ["UDP 500"]),
    "number": ("", "drop", "ip protocol 17 accept; meta l4proto icmp accept;", ["UDP 1814", "UDP 500"]),
    "any port": (
        "",
        "drop",
        "meta l4proto { tcp, udp } th dport { 500, 1814 } accept;",
        ["UDP 1814", "UDP 500"],
    ),
    "verdict map": (
        "",
        "drop",
        "meta l4proto udp udp dport vmap { 500 : accept, 1814 : drop };",
        ["UDP 500"],
    ),
    "goto": (
        "chain control { udp dport 1814 accept; };",
        "drop",
        "meta l4proto udp goto control; udp dport 500 accept; tcp dport 32001 accept;",
        ["TCP 32001", "UDP 1814"],
    ),
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Net, str, str]]:
    with Net() as net:
        here, there = net.namespace("fw"), net.namespace("out")
        net.veth((here, "fw0", f"{ADDRESS}/24"), (there, "out0", "192.0.2.2/24"))
        server = net.start(here, sys.executable, "-c", LISTEN, stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield net, here, there


@pytest.mark.parametrize("name", RULES)
def test_said_and_done(name: str, hosts: tuple[Net, str, str]) -> None:
    net, here, there = hosts
    extra, policy, rules, let_in = RULES[name]
    net.run(here, "nft", "flush", "ruleset")
    net.run(here, "nft", "-f", "-", data=f"{HEAD.format(extra=extra, policy=policy)} {rules} }}; }}")
    findings = blocked(json.loads(net.run(here, "nft", "-j", "list", "ruleset")), OPENINGS)
    said = [str(each) for each in OPENINGS if not any(f"drops {each}" in found.what for found in findings)]
    job = json.dumps([(str(each), 1 if each.protocol == "tcp" else 2, each.port) for each in OPENINGS])
    done = json.loads(net.run(there, sys.executable, "-c", KNOCK, data=job))
    assert done == let_in
    assert said == done
    # What the advice says lets it in.
    for finding in findings:
        if finding.verdict is Verdict.WARN:
            net.run(here, *finding.advice.split())
    assert json.loads(net.run(there, sys.executable, "-c", KNOCK, data=job)) == list(map(str, OPENINGS))


def test_esp(hosts: tuple[Net, str, str]) -> None:
    net, here, _ = hosts
    esp = Opening("esp", None, (4,))
    for rule, lets_in in (
        ("ip protocol esp accept", True),
        ("meta l4proto esp accept", True),
        ("esp spi 4096-8191 accept", True),
        ("meta l4proto { ah, esp } accept", True),
        ("ip saddr 192.0.2.0/24 accept", True),
        ("ip6 nexthdr esp accept", False),
        ("udp dport 500 accept", False),
        ("meta l4proto ah accept", False),
        ("icmp type echo-request accept", False),
    ):
        net.run(here, "nft", "flush", "ruleset")
        net.run(here, "nft", "-f", "-", data=f"{HEAD.format(extra='', policy='drop')} {rule}; }}; }}")
        (finding,) = blocked(json.loads(net.run(here, "nft", "-j", "list", "ruleset")), [esp])
        assert (finding.verdict is Verdict.OK) == lets_in, rule
        if not lets_in:
            net.run(here, *finding.advice.split())
            (finding,) = blocked(json.loads(net.run(here, "nft", "-j", "list", "ruleset")), [esp])
            assert finding.verdict is Verdict.OK, rule
