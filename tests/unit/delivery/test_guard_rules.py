"""What the guard is made of, and what is said to be wrong with one: everything that is not as it was installed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.config import Configuration
from flowtap.delivery.guard import ClosedPort, GuardedTunnel, GuardPlan, rules, ruleset
from flowtap.delivery.guard_faults import faults, stale_rules
from flowtap.errors import ConfigurationError

PLAN = GuardPlan(
    (
        GuardedTunnel("ttp", (ip_network("2.2.2.0/27"),), "ipsec0"),
        GuardedTunnel(
            "b",
            tuple(map(ip_network, ("3.3.3.0/25", "3.3.3.128/26", "4.4.4.4/32", "2001:db8:5::/64"))),
            None,
        ),
    ),
    (
        ClosedPort("tcp", ip_address("100.100.100.101"), 32_001, ("ipsec0",)),
        ClosedPort("udp", ip_address("2001:db8::1"), 1814, ()),
    ),
)
LISTED = Path(__file__).with_name("guard_listed.json")
"""What nft 1.0.6 and ip 6.1.0 said when this plan was installed."""
TUNNEL: dict[str, Any] = {
    "local_gateway": "100.100.100.100",
    "remote_gateway": "123.123.123.123",
    "local_networks": ["100.100.100.101", "2001:db8::1"],
    "remote_networks": ["2.2.2.0/27"],
    "pre_shared_key_file": "psk",
    "interface": "ipsec0",
}


@pytest.fixture
def listed() -> dict[str, Any]:
    return read_listed()


def read_listed() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(LISTED.read_text())
    return value


def found(listed: dict[str, Any], plan: GuardPlan = PLAN) -> list[str]:
    return faults(plan, listed, listed["rules"])


def rules_of(listed: dict[str, Any], chain: str) -> list[dict[str, Any]]:
    items = (item["rule"] for item in listed["nftables"] if "rule" in item)
    return [rule for rule in items if rule["chain"] == chain]


def configuration(**changes: Any) -> Configuration:
    values: dict[str, Any] = {
        "element": {"interfaces": ["eth0"]},
        "login": {
            "class": {"tasker": {"permissions": ["flow-tap-operation"]}},
            "user": {name: {"class": "tasker", "password_hash_file": "hash"} for name in ("md", "other")},
        },
        "control_source": {"md": {"tunnel": "ttp"}},
        "dtcp": {"ssh": {"listen": ["100.100.100.101:32001"], "host_key_file": "key"}},
        "tunnel": {"ttp": TUNNEL},
    }
    return Configuration.model_validate({**values, **changes})


def test_the_rules_are_those_that_were_tried() -> None:
    plan = GuardPlan.of(configuration(control_source={}))
    assert ruleset(plan) == (
        "add table inet flowtap_guard\n"
        "delete table inet flowtap_guard\n"
        "table inet flowtap_guard {\n"
        "\tchain out {\n"
        "\t\ttype filter hook output priority 300; policy accept;\n"
        '\t\tip daddr 2.2.2.0/27 oifname != "ipsec0" rt ipsec missing counter drop\n'
        "\t}\n"
        "\tchain post {\n"
        "\t\ttype filter hook postrouting priority 300; policy accept;\n"
        '\t\tip daddr 2.2.2.0/27 oifname != "ipsec0" rt ipsec missing counter drop\n'
        "\t}\n"
        "\tchain in {\n"
        "\t\ttype filter hook input priority -300; policy accept;\n"
        '\t\tip saddr 2.2.2.0/27 iifname != "ipsec0" meta ipsec missing counter drop\n'
        "\t}\n"
        "}\n"
    )
    assert list(map(str, rules(plan))) == ["2.2.2.0/27"]


def test_in_policy_mode_and_for_both_families() -> None:
    tunnel = {
        **TUNNEL,
        "interface": None,
        "remote_networks": ["2.2.2.0/27", "2.2.2.4", "2001:db8:5::/64", "2.2.2.32/27", "9.0.0.0/8"],
    }
    text = ruleset(GuardPlan.of(configuration(tunnel={"ttp": tunnel})))
    # Each address once.
    assert "ip daddr { 2.2.2.0/26, 9.0.0.0/8 } rt ipsec missing counter drop" in text
    assert "ip6 daddr 2001:db8:5::/64 rt ipsec missing counter drop" in text
    assert "ip saddr { 2.2.2.0/26, 9.0.0.0/8 } meta ipsec missing counter drop" in text
    assert 'tcp dport 32001 iifname != "lo" meta ipsec missing counter drop' in text
    assert "oifname" not in text


WITH_KEY = {"tunnel": "ttp", "key_file": "key"}


@pytest.mark.parametrize(
    ("sources", "ssh", "udp", "expected"),
    [
        ({"md": {"tunnel": "ttp"}}, ["100.100.100.101:32001"], [], ["tcp 100.100.100.101 32001 ipsec0"]),
        # Somebody else comes in clear.
        ({"md": {"tunnel": "ttp"}, "other": {}}, ["100.100.100.101:32001"], [], []),
        ({"other": {}}, ["100.100.100.101:32001"], [], []),
        # All addresses of this host, or one that no tunnel leads to.
        ({"md": {"tunnel": "ttp"}}, ["0.0.0.0:32001"], [], []),
        ({"md": {"tunnel": "ttp"}}, ["192.0.2.1:32001"], [], []),
        # Some of the addresses.
        (
            {"md": {"tunnel": "ttp"}},
            ["192.0.2.1:32001", "[2001:db8::1]:32001"],
            [],
            ["tcp 2001:db8::1 32001 ipsec0"],
        ),
        # Who has no key is not heard over UDP.
        (
            {"md": WITH_KEY, "other": {}},
            ["192.0.2.1:32001"],
            ["100.100.100.101"],
            ["udp 100.100.100.101 1814 ipsec0"],
        ),
        ({"md": {"tunnel": "ttp"}}, ["192.0.2.1:32001"], ["100.100.100.101"], []),
        # A port that nobody knows yet.
        ({"md": {"tunnel": "ttp"}}, ["100.100.100.101:0"], [], []),
    ],
)
def test_ports_are_closed_where_nobody_could_miss_them(
    sources: dict[str, Any], ssh: list[str], udp: list[str], expected: list[str]
) -> None:
    dtcp = {"ssh": {"listen": ssh, "host_key_file": "key"}, "udp": {"listen": udp}}
    plan = GuardPlan.of(configuration(control_source=sources, dtcp=dtcp))
    ports = [f"{each.protocol} {each.address} {each.port} {' '.join(each.interfaces)}" for each in plan.ports]
    assert ports == expected


def test_a_port_is_open_to_every_tunnel_that_may_use_it() -> None:
    second = {**TUNNEL, "remote_networks": ["3.3.3.0/24"], "interface": "xfrm1"}
    plan = GuardPlan.of(
        configuration(
            tunnel={"ttp": TUNNEL, "b": second},
            control_source={"md": {"tunnel": "ttp"}, "other": {"tunnel": "b"}},
        )
    )
    assert plan.ports == (ClosedPort("tcp", ip_address("100.100.100.101"), 32_001, ("ipsec0", "xfrm1")),)
    assert 'iifname != { "ipsec0", "xfrm1", "lo" }' in ruleset(plan)


@pytest.mark.parametrize("name", ["ipsec*", 'a"b', "a\\b", "$x", "a;b", "{a}"])
def test_an_interface_that_would_be_something_else_in_a_rule_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^tunnel\.ttp\.interface: "):
        GuardPlan.of(configuration(tunnel={"ttp": {**TUNNEL, "interface": name}}))
    text = PLAN.to_json().replace('"ipsec0"', json.dumps(name))
    with pytest.raises(ValueError, match="is no name of an interface"):
        GuardPlan.from_json(text)


def test_a_plan_goes_to_another_process() -> None:
    text = PLAN.to_json()
    assert "\n" not in text
    assert GuardPlan.from_json(text) == PLAN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tunnels":[{}],"ports":[]}', PLAN.to_json()[:-5]])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="what the guard has to hold cannot be read"):
        GuardPlan.from_json(text)


def test_what_was_installed_is_sound(listed: dict[str, Any]) -> None:
    assert found(listed) == []
    rules_of(listed, "out")[0]["expr"][3]["counter"]["packets"] = 7
    rules_of(listed, "out")[0]["handle"] = 99
    assert found(listed) == []


def test_there_is_none(listed: dict[str, Any]) -> None:
    assert faults(PLAN, None, listed["rules"]) == ["nftables: there is no table inet flowtap_guard"]
    listed["nftables"] = [item for item in listed["nftables"] if "table" not in item]
    assert found(listed) == ["nftables: there is no table inet flowtap_guard"]


@pytest.mark.parametrize(
    "text", ["nft wrote something that is no JSON", [], {}, {"nftables": 1}, {"nftables": [1]}]
)
def test_what_cannot_be_understood_is_a_fault(listed: dict[str, Any], text: object) -> None:
    (fault,) = faults(PLAN, text, listed["rules"])
    assert "cannot be understood" in fault


@pytest.mark.parametrize("text", [None, {}, [1], "ip"])
def test_a_routing_policy_that_cannot_be_understood_is_a_fault(listed: dict[str, Any], text: object) -> None:
    (fault,) = faults(PLAN, listed, text)
    assert fault.startswith("routing policy: what is listed of its rules cannot be understood")


def test_a_dormant_table_drops_nothing(listed: dict[str, Any]) -> None:
    # As nft 1.0.6 really says it.
    listed["nftables"][1]["table"]["flags"] = "inet"
    assert "dormant" in " ".join(found(listed))


def test_a_chain_is_missing(listed: dict[str, Any]) -> None:
    listed["nftables"] = [
        item for item in listed["nftables"] if "post" not in {each.get("chain", each.get("name")) for each in item.values()}
    ]  # fmt: skip
    assert found(listed) == ["nftables: the chain post is missing"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("hook", "forward"), ("prio", 0), ("policy", "drop"), ("type", "nat"), ("hook", None)],
)
def test_a_chain_is_elsewhere(listed: dict[str, Any], key: str, value: object) -> None:
    (chain,) = [item["chain"] for item in listed["nftables"] if item.get("chain", {}).get("name") == "in"]
    if value is None:
        del chain[key]
    else:
        chain[key] = value
    (fault,) = found(listed)
    assert fault.startswith(f"nftables: the chain in has as {key} ")


def test_a_rule_is_missing(listed: dict[str, Any]) -> None:
    rule = rules_of(listed, "out")[1]
    listed["nftables"] = [item for item in listed["nftables"] if item.get("rule") is not rule]
    words = "nftables: the chain out does not drop IPv4 in clear that leaves, against tunnel.b"
    assert found(listed) == [words]


@pytest.mark.parametrize("verdict", ["accept", "return", "drop"])
@pytest.mark.parametrize("at", [2, -1])
def test_a_rule_is_added(listed: dict[str, Any], verdict: str, at: int) -> None:
    added = {"rule": {"chain": "out", "expr": [{verdict: None}]}}
    listed["nftables"].insert(at, added)
    expected = f"nftables: the chain out has a rule that is not the guard's (verdict {verdict})"
    assert found(listed) == [expected]


def test_a_rule_lets_through(listed: dict[str, Any]) -> None:
    rules_of(listed, "in")[0]["expr"][-1] = {"accept": None}
    assert found(listed) == [
        "nftables: the chain in does not drop IPv4 in clear that comes in, against tunnel.ttp",
        "nftables: the chain in has a rule that is not the guard's (verdict accept)",
    ]


def test_rules_are_in_another_order(listed: dict[str, Any]) -> None:
    one, other = rules_of(listed, "post")[:2]
    one["expr"], other["expr"] = other["expr"], one["expr"]
    assert found(listed) == ["nftables: the rules of the chain post are in another order"]


def test_a_rule_is_there_twice(listed: dict[str, Any]) -> None:
    listed["nftables"].append({"rule": copy.deepcopy(rules_of(listed, "out")[0])})
    (fault,) = found(listed)
    assert "(verdict drop)" in fault


def test_other_things_are_in_the_table(listed: dict[str, Any]) -> None:
    listed["nftables"] += [{"set": {"name": "s"}}, {"chain": {"name": "mine"}}]
    assert found(listed) == [
        "nftables: table inet flowtap_guard has a set that is not the guard's",
        "nftables: table inet flowtap_guard has a chain mine that is not the guard's",
    ]


def test_the_configuration_has_changed(listed: dict[str, Any]) -> None:
    first, second = PLAN.tunnels
    wider = GuardedTunnel(first.name, (ip_network("2.2.2.0/26"),), first.interface)
    told = found(listed, GuardPlan((wider, second), PLAN.ports))
    assert "routing policy: there is no rule 221 that calls 2.2.2.0/26 unreachable" in told
    assert sum("does not drop IPv4" in each for each in told) == 3
    elsewhere = GuardedTunnel(first.name, first.remote_networks, "xfrm0")
    assert len(found(listed, GuardPlan((elsewhere, second), PLAN.ports))) == 6
    assert found(listed, GuardPlan(PLAN.tunnels))


@pytest.mark.parametrize(
    "change",
    [
        {"priority": 32_000},
        {"action": "prohibit"},
        {"dst": "2.2.3.0"},
        {"dstlen": 28},
        {"src": "192.0.2.1"},
        {"fwmark": "0x1"},
        {"iif": "lo"},
        {"ipproto": "tcp"},
    ],
)
def test_a_rule_of_the_routing_policy_holds_for_less(listed: dict[str, Any], change: dict[str, Any]) -> None:
    (rule,) = [each for each in listed["rules"] if each.get("dst") == "2.2.2.0"]
    rule.update(change)
    assert found(listed) == ["routing policy: there is no rule 221 that calls 2.2.2.0/27 unreachable"]


def test_rules_of_the_routing_policy_that_an_earlier_plan_has_left(listed: dict[str, Any]) -> None:
    assert stale_rules(PLAN, listed["rules"]) == []
    assert set(stale_rules(None, listed["rules"])) == set(rules(PLAN))
    assert stale_rules(GuardPlan(PLAN.tunnels[1:]), listed["rules"]) == [ip_network("2.2.2.0/27")]


# Of these the kernel, or nft, may say what it likes.
INDIFFERENT = {"handle", "counter", "metainfo", "comment", "table", "family"}


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to everything inside that matters."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = [(key, each) for key, each in value.items() if key not in INDIFFERENT]
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, each in items:
        if isinstance(each, dict) and each.keys() & {"metainfo", "table", "counter"}:
            continue
        yield (*path, key)
        yield from places(each, (*path, key))


PLACES = list(places({"nftables": read_listed()["nftables"]}))
OTHER = [None, True, 0, 299, "accept", "eth0", "9.9.9.9", [], {}, ["2.2.2.0"], {"drop": None}]


@given(st.sampled_from(PLACES), st.sampled_from([*OTHER, "gone"]))
def test_any_change_is_noticed(place: tuple[str | int, ...], value: object) -> None:
    listed = read_listed()
    inside: Any = listed
    for key in place[:-1]:
        inside = inside[key]
    if inside[place[-1]] == value and type(inside[place[-1]]) is type(value):
        return
    if value == "gone":
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    assert found(listed) != [], place
