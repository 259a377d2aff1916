"""Every statement is told once, whatever the configuration, and no secret is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowtap.config.junos import (
    JunosError,
    Node,
    curly,
    import_text,
    parse,
    report_object,
    report_text,
    set_lines,
)
from flowtap.config.junos.emit import quoted as as_printed
from flowtap.config.junos.ledger import statement

CONFIGURATIONS = Path(__file__).parents[3] / "configurations"
SECRET = "Geheimnis"  # noqa: S105 - it is nobody's

names = st.sampled_from(["a", "b", "ft-ttp", "sp-0/3/0.1", "x y", "r,s", "..", "é"])
numbers = st.sampled_from(["0", "1", "5", "200", "2200", "3600", "86401", "x", "5k", "2m"])
addresses = st.sampled_from(
    [
        "192.0.2.1",
        "2.2.2.2.2",
        "2.2.2.0/27",
        "2.2.2.0/33",
        "2.2.2.1/27",
        "0.0.0.0/0",
        "2001:db8::/32",
        "::1",
        "1",
    ]
)
secrets = st.sampled_from(
    [SECRET, f"$9${SECRET}", f"$8${SECRET}", f"$6${SECRET}$x", f"{SECRET} x", "$9$LbHX-wg4Z"]
)
keywords = st.sampled_from(
    [
        "main",
        "aggressive",
        "esp",
        "ah",
        "hmac-sha1-96",
        "sha1",
        "3des-cbc",
        "aes-256-gcm",
        "group2",
        "1",
        "2",
        "input",
        "flow-tap-operation",
        "flow-tap",
        "all",
        "inet",
        "inet6",
        "from",
        "inactive:",
        "groups",
        "apply-groups",
        "description",
    ]
)
VPN = "services ipsec-vpn"
DFC = "services dynamic-flow-capture"
# $ stands for a value; which kinds of values belong there does not matter here.
PATHS = [
    "$ $",
    "version $",
    "system host-name $",
    "system root-authentication encrypted-password !",
    "system login class $ permissions $",
    "system login class $ permissions flow-tap-operation",
    "system login class $ idle-timeout $",
    "system login user $ class $",
    "system login user $ uid $",
    "system login user $ authentication encrypted-password !",
    "system login user $ authentication ssh-rsa !",
    "system login user $ authentication ssh-rsa ! from $",
    "system services flow-tap-dtcp ssh connection-limit $",
    "system services flow-tap-dtcp ssh $",
    "system services dtcp-only",
    "services flow-tap interface $",
    "services flow-tap tunnel-interface $",
    "services flow-tap family $",
    "services radius-flow-tap source-ipv4-address $",
    "services radius-flow-tap snmp notify-targets $",
    "services radius-flow-tap interfaces $",
    "services radius-flow-tap policy $ inet drop-policy $ from source-address $",
    "services radius-flow-tap $ $",
    f"{DFC} g-max-duplicates $",
    f"{DFC} g-duplicates-dropped-periodicity $",
    f"{DFC} capture-group $ control-source $ shared-key !",
    f"{DFC} capture-group $ control-source $ source-addresses $",
    f"{DFC} capture-group $ control-source $ service-port $",
    f"{DFC} capture-group $ control-source $ notification-targets $ port $",
    f"{DFC} capture-group $ control-source $ minimum-priority $",
    f"{DFC} capture-group $ control-source $ allowed-destinations $",
    f"{DFC} capture-group $ content-destination $ address $",
    f"{DFC} capture-group $ content-destination $ hard-limit $",
    f"{DFC} capture-group $ content-destination $ ttl $",
    f"{DFC} capture-group $ interfaces $",
    f"{DFC} capture-group $ $",
    "interfaces $ unit $ family inet address $",
    "interfaces $ unit $ family $",
    "interfaces sp-0/3/0 unit 1 family inet",
    "interfaces $ description $",
    "chassis fpc $ pic $",
    "routing-options static route $ next-hop $",
    "snmp community !",
    "protocols bgp group $ authentication-key !",
    "groups $ system login user $ class $",
    "system apply-groups $",
    "logical-systems $ services flow-tap interface $",
    "services service-set $ next-hop-service inside-service-interface $",
    "services service-set $ next-hop-service outside-service-interface $",
    "services service-set $ ipsec-vpn-options local-gateway $",
    "services service-set $ ipsec-vpn-rules $",
    "services service-set $ $",
    f"{VPN} rule $ term $ from source-address $",
    f"{VPN} rule $ term $ from destination-address $",
    f"{VPN} rule $ term $ then remote-gateway $",
    f"{VPN} rule $ term $ then dynamic ike-policy $",
    f"{VPN} rule $ term $ then dynamic ipsec-policy $",
    f"{VPN} rule $ term $ then $",
    f"{VPN} rule $ match-direction $",
    f"{VPN} ike policy $ pre-shared-key ascii-text !",
    f"{VPN} ike policy $ pre-shared-key hexadecimal !",
    f"{VPN} ike policy $ proposals $",
    f"{VPN} ike policy $ mode $",
    f"{VPN} ike policy $ version $",
    f"{VPN} ike policy $ local-id $ $",
    f"{VPN} ike proposal $ dh-group $",
    f"{VPN} ike proposal $ encryption-algorithm $",
    f"{VPN} ike proposal $ $ $",
    f"{VPN} ipsec policy $ proposals $",
    f"{VPN} ipsec proposal $ protocol $",
    f"{VPN} ipsec proposal $ lifetime-seconds $",
]


def quoted(word: str) -> str:
    return f'"{word}"' if " " in word or not word or word.endswith(":") else word


@st.composite
def lines(draw: st.DrawFn) -> str:
    text = []
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=20)):
        words = [
            draw(st.one_of(names, numbers, addresses, keywords))
            if word == "$"
            else draw(secrets)
            if word == "!"
            else word
            for word in path.split()
        ]
        stated = " ".join(map(quoted, words))
        text.append(f"set {stated}")
        command = draw(st.sampled_from(["", "", "", "", "deactivate", "delete", "protect"]))
        if command:
            count = draw(st.integers(1, len(words)))
            text.append(f"{command} {' '.join(map(quoted, words[:count]))}")
    return "\n".join(text)


HOW_TO = (CONFIGURATIONS / "how-to.set").read_text()


@st.composite
def near_the_how_to(draw: st.DrawFn) -> str:
    """The how-to's configuration with lines left out, deactivated and added: much of it still fits together."""
    text = HOW_TO.splitlines()[1:]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text) - 1))
        how = draw(st.sampled_from(["drop", "deactivate", "repeat", "change"]))
        if how == "drop" and len(text) > 1:
            del text[at]
        elif how == "deactivate" and text[at].startswith("set "):
            text.append(text[at].replace("set ", "deactivate ", 1))
        elif how == "repeat":
            text.append(text[at])
        elif text[at].startswith("set ") and not text[at].endswith(chr(34)):
            value = draw(st.one_of(names, numbers, addresses, keywords))
            text[at] = f"{text[at].rpartition(' ')[0]} {quoted(value)}"
    return "\n".join(text)


configurations = st.one_of(lines(), near_the_how_to(), st.builds("{}\n{}".format, near_the_how_to(), lines()))


def told(text: str) -> list[tuple[int, int, str]] | None:
    """Where every statement of the report stands; None where there is nothing to import."""
    try:
        imported = import_text(text, {})
    except JunosError as error:
        assert "nothing in it is about" in error.reason
        return None
    everything = report_text(imported, "x") + json.dumps(report_object(imported, "x"))
    assert SECRET not in everything
    assert SECRET not in imported.draft.toml("x", with_stand_ins=True)
    return [(each.line, each.column, each.statement) for each in imported.entries]


@given(configurations)
@example(HOW_TO)
def test_every_statement_once(text: str) -> None:
    for form in (text, curly(parse(text).root)):
        if not form.strip():
            continue
        tree = parse(form)
        stated = (
            []
            if not tree.root.children
            else [(leaf.line, leaf.column, statement(leaf.path)) for leaf in tree.root.leaves()]
        )
        stated += [(each.line, each.column, statement(each.words)) for each in tree.dropped]
        found = told(form)
        assert found is None or Counter(found) == Counter(stated)


@given(configurations)
@example(HOW_TO)
def test_both_forms_become_the_same(text: str) -> None:
    root = parse(text).root
    if not root.children:
        return
    results: list[object] = []
    for form in (curly(root), set_lines(root)):
        try:
            imported = import_text(form, {"ge-0/0/0": "eth0"})
        except JunosError:
            results.append(None)
            continue
        # Faults and entries are in the order of the text, and lines after "deactivate" come last.
        results.append(
            (
                Counter((each.statement, each.outcome, each.target) for each in imported.entries),
                Counter(
                    (each.statement, each.reason) for each in imported.faults if "line" not in each.reason
                ),
                {
                    names: {key: setting.value for key, setting in section.items()}
                    for names, section in imported.draft.sections.items()
                },
            )
        )
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("snmp community public", "snmp community ..."),
        (
            "system root-authentication encrypted-password x",
            "system root-authentication encrypted-password ...",
        ),
        ("system radius-server 192.0.2.1 secret x", "system radius-server 192.0.2.1 secret ..."),
        ("protocols isis authentication-key x", "protocols isis authentication-key ..."),
        (
            "system archival configuration archive-sites ftp://u:p@host/",
            "system archival configuration archive-sites ...",
        ),
        ("services x $9$abc", "services x ..."),
        ("services x $1$abc", "services x ..."),
        ("security macsec pre-shared-key cak 0011", "security macsec pre-shared-key ..."),
        ("ike policy p pre-shared-key ascii-text x", "ike policy p pre-shared-key ascii-text ..."),
        ("ike policy p pre-shared-key hexadecimal x", "ike policy p pre-shared-key hexadecimal ..."),
        ("x authentication ssh-ed25519 AAAA from y", "x authentication ssh-ed25519 ..."),
        ("system login user secret", "system login user secret"),
    ],
)
def test_what_is_secret_is_not_shown(words: str, shown: str) -> None:
    assert statement(words.split()) == shown


def test_what_is_long_or_strange_is_cut() -> None:
    assert statement(["a" * 200]) == "a" * 120 + "..."
    assert len(statement(["a" * 100] * 60)) < 410
    assert statement(["a\u202eb\nc"]) == "a?b?c"


def _nodes(root: Node) -> list[Node]:
    found, waiting = [], [root]
    while waiting:
        children = list(waiting.pop().children.values())
        found += children
        waiting += children
    return found


def _made(text: str) -> object:
    """What an import comes to, without the places in the text."""
    imported = import_text(text, {"ge-0/0/0": "eth0"})
    if imported.faults:
        return {each.reason for each in imported.faults}
    sections = {
        names: {key: setting.value for key, setting in section.items()}
        for names, section in imported.draft.sections.items()
    }
    return sections, {name: file.content for name, file in imported.draft.files.items()}


def test_what_is_deactivated_at_any_level_is_as_if_it_were_not_there() -> None:
    text = (CONFIGURATIONS / "how-to.set").read_text()
    nodes = _nodes(parse(text).root)
    assert len(nodes) > 100
    for node in nodes:
        if node.path in (["system"], ["system", "services"], ["system", "services", "flow-tap-dtcp"]):
            # A server that somebody has switched off hears less than one that is not spoken of.
            continue
        words = " ".join(map(as_printed, node.path))
        deactivated = _made(f"{text}deactivate {words}\n")
        deleted = _made(f"{text}delete {words}\n")
        # A keyword that a deleted value leaves behind is a fault; deactivated it still has one.
        if not (isinstance(deleted, set) and any("has no value" in str(each) for each in deleted)):
            assert deactivated == deleted, words
        assert _made(curly(parse(f"{text}deactivate {words}\n").root)) == deactivated, words


@pytest.mark.parametrize(
    ("text", "outcome", "words"),
    [
        ("groups { g { x y; } }", "unmapped", "display inheritance"),
        ("system { login { apply-groups g; } }", "unmapped", "display inheritance"),
        ("inactive: snmp { location x; }", "ignored", "is inactive"),
        ("firewall { filter f { term t { then accept; } } }", "ignored", "TCP 32001"),
        ("chassis { fpc 0 { pic 3; } }", "ignored", "hardware"),
        ("version 8.2R2.4;", "ignored", "release"),
        (
            "logical-systems { l { services { flow-tap { interface sp-0/0/0.0; } } } }",
            "unmapped",
            "logical systems",
        ),
        ("protocols { bgp { group g; } }", "ignored", "the router itself"),
        ("services { rpm { probe p; } }", "ignored", "no service about tapping"),
        ("services { ipsec-vpn { new-thing; } }", "unmapped", "nothing like it"),
        ("services { flow-tap-lite { tunnel-interface vt-0/0/0.0; } }", "unmapped", "nothing like it"),
        ("system { services { flow-tap-dtcp { ssh { new-thing 5; } } } }", "unmapped", "nothing like it"),
    ],
)
def test_what_else_there_is(text: str, outcome: str, words: str) -> None:
    imported = import_text("system { host-name tap; }\n" + text, {})
    assert imported.faults == []
    first, second = imported.entries
    assert (first.outcome, first.target) == ("mapped", "element.name")
    assert second.outcome == outcome
    assert words in (second.reason or "")


@pytest.mark.parametrize("name", ["a\nERROR forged", "a b", "x\u202e", "x" * 256])
def test_the_name_of_a_host_begins_no_line_of_a_log(name: str) -> None:
    (fault,) = import_text(f'system {{ host-name "{name}"; }} services {{ flow-tap; }}', {}).faults
    assert "without blanks" in fault.reason
    assert "\n" not in fault.statement


def test_what_holds_nothing_is_refused() -> None:
    with pytest.raises(JunosError, match="nothing in it is about flow-tap"):
        import_text("snmp { location x; }", {})
