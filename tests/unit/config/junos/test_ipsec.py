"""Service sets and ipsec-vpn: tunnels in strongSwan's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtap.config.junos import Import, check, import_text

HOW_TO = (Path(__file__).parents[3] / "configurations" / "how-to.set").read_text()
VPN = "set services ipsec-vpn "
SET = "set services service-set IPSEC-TTP-Company-1 "
TERM = VPN + "rule To-TTP-Company term 1 "
IKE = VPN + "ike policy 123_123_123_123 "
NAME = "To-TTP-Company"


def changed(*changes: str) -> Import:
    """The how-to's configuration, with lines in its place or behind it; an empty one takes the line out."""
    text = HOW_TO
    for change in changes:
        before, _, after = change.partition(" => ")
        if after or change.endswith(" => "):
            lines = [line for line in text.splitlines() if line.startswith(before)]
            assert lines, before
            for line in lines:
                text = text.replace(f"{line}\n", f"{after}\n" if after else "")
        else:
            text += change + "\n"
    return import_text(text, {"ge-0/0/0": "eth0"})


def tunnel(imported: Import, name: str = NAME) -> dict[str, object]:
    assert imported.faults == []
    assert check(imported) == []
    return {key: setting.value for key, setting in imported.draft.sections["tunnel", name].items()}


def ended(imported: Import, end: str) -> str:
    (outcome,) = [each.outcome for each in imported.entries if each.statement.endswith(end)]
    return outcome


def test_the_how_to() -> None:
    imported = changed()
    assert tunnel(imported) == {
        "local_gateway": "100.100.100.100",
        "remote_gateway": "123.123.123.123",
        "local_networks": ["100.100.100.101/32"],
        "remote_networks": ["2.2.2.0/27"],
        "legacy": True,
        "ike_version": 1,
        "ike_proposals": ["3des-sha1-modp1024"],
        "esp_proposals": ["3des-sha1"],
        "ike_lifetime_s": 86_400,
        "esp_lifetime_s": 3_600,
        "pre_shared_key_file": "To-TTP-Company.psk",
        "service_set": "IPSEC-TTP-Company-1",
        "rule": "To-TTP-Company",
        "term": "1",
    }
    assert imported.draft.files["To-TTP-Company.psk"].content == b"a_password_here\n"
    assert imported.draft.files["To-TTP-Company.psk"].is_secret
    assert imported.draft.value(("control_source", "ft-ttp"), "tunnel") == NAME
    assert imported.draft.value(("dtcp", "ssh"), "listen") == ["100.100.100.101:32001"]
    assert not [each for each in imported.entries if each.outcome == "unmapped"]
    assert any("legacy = true" in note for note in imported.draft.notes)


@pytest.mark.parametrize(
    ("cipher", "digest", "group", "words"),
    [
        ("des-cbc", "md5", "group1", "des-md5-modp768"),
        ("3des-cbc", "sha1", "group2", "3des-sha1-modp1024"),
        ("aes-128-cbc", "sha1", "group5", "aes128-sha1-modp1536"),
        ("aes-192-cbc", "sha-256", "group14", "aes192-sha256-modp2048"),
        ("aes-256-cbc", "sha-384", "group15", "aes256-sha384-modp3072"),
        ("aes-256-cbc", "sha-512", "group16", "aes256-sha512-modp4096"),
        ("aes-128-gcm", "sha-256", "group19", "aes128gcm16-prfsha256-ecp256"),
        ("aes-192-gcm", "sha-256", "group21", "aes192gcm16-prfsha256-ecp521"),
        ("aes-256-gcm", "sha-384", "group20", "aes256gcm16-prfsha384-ecp384"),
        ("aes-256-cbc", "sha-256", "group24", "aes256-sha256-modp2048s256"),
    ],
)
def test_words_for_ike(cipher: str, digest: str, group: str, words: str) -> None:
    proposal = VPN + "ike proposal proposal-1 "
    imported = changed(
        f"{proposal}encryption-algorithm {cipher}",
        f"{proposal}authentication-algorithm {digest}",
        f"{proposal}dh-group {group}",
    )
    assert tunnel(imported)["ike_proposals"] == [words]


@pytest.mark.parametrize(
    ("cipher", "digest", "group", "words"),
    [
        ("des-cbc", "hmac-md5-96", None, "des-md5"),
        ("3des-cbc", "hmac-sha1-96", "group2", "3des-sha1-modp1024"),
        ("aes-128-cbc", "hmac-sha-256-128", None, "aes128-sha256"),
        ("aes-192-cbc", "hmac-sha-256-96", None, "aes192-sha256_96"),
        ("aes-256-cbc", "hmac-sha-384", "group20", "aes256-sha384-ecp384"),
        ("aes-256-cbc", "hmac-sha-512", "group14", "aes256-sha512-modp2048"),
        ("aes-128-gcm", None, None, "aes128gcm16"),
        ("aes-192-gcm", None, None, "aes192gcm16"),
        ("aes-256-gcm", "hmac-sha1-96", "group20", "aes256gcm16-ecp384"),
    ],
)
def test_words_for_esp(cipher: str, digest: str | None, group: str | None, words: str) -> None:
    proposal = VPN + "ipsec proposal dynamic-1 "
    changes = [f"{proposal}encryption-algorithm {cipher}"]
    changes.append(
        f"{proposal}authentication-algorithm => "
        if digest is None
        else f"{proposal}authentication-algorithm {digest}"
    )
    if group is not None:
        changes.append(f"{VPN}ipsec policy dynamic-policy-1 perfect-forward-secrecy keys {group}")
    assert tunnel(changed(*changes))["esp_proposals"] == [words]


def modern(*changes: str) -> Import:
    ike, esp = VPN + "ike proposal proposal-1 ", VPN + "ipsec proposal dynamic-1 "
    return changed(
        f"{IKE}version 2",
        f"{ike}encryption-algorithm => {ike}encryption-algorithm aes-256-gcm",
        f"{ike}authentication-algorithm => {ike}authentication-algorithm sha-384",
        f"{ike}dh-group => {ike}dh-group group20",
        f"{esp}encryption-algorithm => {esp}encryption-algorithm aes-256-gcm",
        f"{esp}authentication-algorithm => ",
        *changes,
    )


def test_what_is_modern_is_not_called_legacy() -> None:
    section = tunnel(modern())
    assert section["ike_version"] == 2
    assert "legacy" not in section


def test_weak_words_with_ikev2_are_legacy_as_well() -> None:
    assert tunnel(modern(f"{VPN}ike proposal proposal-1 dh-group group2"))["legacy"] is True


def test_several_proposals() -> None:
    imported = changed(
        f"{IKE}proposals other",
        f"{VPN}ike proposal other encryption-algorithm aes-256-cbc",
        f"{VPN}ike proposal other authentication-algorithm sha-256",
        f"{VPN}ike proposal other dh-group group14",
        f"{VPN}ike proposal other lifetime-seconds 3600",
        f"{VPN}ike proposal unused dh-group group14",
    )
    section = tunnel(imported)
    assert section["ike_proposals"] == ["3des-sha1-modp1024", "aes256-sha256-modp2048"]
    assert section["ike_lifetime_s"] == 3_600
    assert ended(imported, "unused dh-group group14") == "ignored"


@pytest.mark.parametrize(
    ("statement", "key", "value"),
    [
        ("local-id ipv4_addr 100.100.100.100", "local_id", "100.100.100.100"),
        ("local-id fqdn tap.example", "local_id", "tap.example"),
        ("local-id key_id abc", "local_id", "keyid:abc"),
        ("remote-id inet 123.123.123.123", "remote_id", "123.123.123.123"),
        ("remote-id user-at-hostname md@ttp.example", "remote_id", "md@ttp.example"),
        ("remote-id any-remote-id", "remote_id", "%any"),
    ],
)
def test_identities(statement: str, key: str, value: str) -> None:
    assert tunnel(changed(IKE + statement))[key] == value


@pytest.mark.parametrize(
    ("key", "content", "is_mapped"),
    [
        ("ascii-text $9$LbHX-wg4Z", b"lc\n", True),
        ("hexadecimal 00ff0d", b"\x00\xff\r\r\n", True),
        ("ascii-text $8$aes256-gcm$x", b"", False),
    ],
)
def test_pre_shared_keys(key: str, content: bytes, is_mapped: bool) -> None:
    imported = changed(f"{IKE}pre-shared-key => {IKE}pre-shared-key {key}")
    assert tunnel(imported)["pre_shared_key_file"] == "To-TTP-Company.psk"
    assert imported.draft.files["To-TTP-Company.psk"].content == content
    assert any("only the router can read" in each for each in imported.draft.needed) != is_mapped
    kind = key.split(maxsplit=1)[0]
    assert [each.statement for each in imported.entries if "pre-shared-key" in each.statement] == [
        f"services ipsec-vpn ike policy 123_123_123_123 pre-shared-key {kind} ..."
    ]


def test_certificates_are_to_be_brought() -> None:
    imported = modern(
        f"{VPN}ike proposal proposal-1 authentication-method rsa-signatures", f"{IKE}pre-shared-key => "
    )
    section = tunnel(imported)
    assert section["certificate_file"] == "certificate.pem"
    assert "pre_shared_key_file" not in section
    assert any("certificates lie in the router" in each for each in imported.draft.needed)


def test_dead_peers() -> None:
    then = TERM + "then "
    imported = changed(
        f"{then}initiate-dead-peer-detection",
        f"{then}dead-peer-detection interval 10",
        f"{then}dead-peer-detection threshold 3",
        f"{then}tunnel-mtu 1400",
    )
    section = tunnel(imported)
    assert (section["dpd_delay_s"], section["dead_peer_s"]) == (10, 30)
    assert ended(imported, "initiate-dead-peer-detection") == "ignored"
    assert ended(imported, "tunnel-mtu 1400") == "unmapped"
    imported = changed(f"{then}dead-peer-detection interval 180", f"{then}dead-peer-detection threshold 3")
    assert "dpd_delay_s" not in tunnel(imported)
    assert ended(imported, "interval 180") == ended(imported, "threshold 3") == "unmapped"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((f"{IKE}mode main => {IKE}mode aggressive",), "aggressive mode"),
        (
            (f"{VPN}ipsec proposal dynamic-1 protocol esp => {VPN}ipsec proposal dynamic-1 protocol ah",),
            "in clear",
        ),
        ((f"{TERM}from destination-address => ",), "names no destination-address"),
        ((f"{TERM}from source-address => ",), "names no source-address"),
        ((f"{TERM}then remote-gateway => ",), "names no remote-gateway"),
        ((f"{TERM}then dynamic => {TERM}then manual direction inbound protocol esp",), "never change"),
        (
            (f"{TERM}from destination-address => {TERM}from destination-address 0.0.0.0/0",),
            "overlap",
        ),
        (
            (f"{TERM}then remote-gateway => {TERM}then remote-gateway 2.2.2.2",),
            "would have to carry itself",
        ),
        ((f"{IKE}local-id distinguished-name x",), "is not known"),
        ((f"{IKE}remote-id fqdn [ a.example b.example ]",), "several identities"),
    ],
)
def test_a_tunnel_that_cannot_be_leaves_nothing_in_clear(changes: tuple[str, ...], words: str) -> None:
    imported = changed(*changes)
    assert imported.faults == []
    assert ("tunnel", NAME) not in imported.draft.sections
    assert "To-TTP-Company.psk" not in imported.draft.files
    assert imported.draft.value(("policy",), "require_tunnel") is True
    assert any("could not be imported" in each and words in each for each in imported.draft.needed)
    term = [
        each.outcome
        for each in imported.entries
        if " rule To-TTP-Company term 1 " in each.statement and "repeats" not in (each.reason or "")
    ]
    assert set(term) == {"unmapped"}
    assert check(imported) == []


@pytest.mark.parametrize(
    "stanza",
    [
        "security ike gateway g address 203.0.113.9",
        "security ipsec vpn v bind-interface st0.0",
        "groups g services ipsec-vpn rule r term 1 then remote-gateway 203.0.113.9",
        "groups g services service-set s ipsec-vpn-rules r",
        "logical-systems l services ipsec-vpn rule r match-direction input",
    ],
)
def test_tunnels_in_stanzas_that_are_not_read_leave_nothing_in_clear(stanza: str) -> None:
    imported = changed(f"set {stanza}")
    assert tunnel(imported)["remote_gateway"] == "123.123.123.123"
    assert imported.draft.value(("policy",), "require_tunnel") is True
    assert any("write a [tunnel.NAME]" in each for each in imported.draft.needed)
    assert ended(imported, stanza) == "unmapped"
    imported = changed(f"set {stanza}", f"deactivate {stanza}")
    assert imported.draft.value(("policy",), "require_tunnel") is None


def test_where_all_tunnels_are_imported_that_all_copies_need_one_is_suggested() -> None:
    assert any("require_tunnel = true refuses" in note for note in changed().draft.notes)
    assert changed().draft.value(("policy",), "require_tunnel") is None
    assert not any(
        "require_tunnel" in note for note in import_text("system { host-name x; }", {}).draft.notes
    )


def test_a_rule_without_a_service_set_is_told() -> None:
    imported = changed("deactivate services service-set IPSEC-TTP-Company-1")
    assert ("tunnel", NAME) not in imported.draft.sections
    assert any("no service set uses" in note and NAME in note for note in imported.draft.notes)
    assert not any("no service set" in note for note in changed().draft.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((f"{TERM}from destination-address 2.2.2.2.2",), "'2.2.2.2.2' is no prefix"),
        ((f"{TERM}from destination-address 2.2.2.0/33",), "'2.2.2.0/33' is no prefix"),
        ((f"{TERM}from destination-address 2.2.2.1/27",), "has host bits; 2.2.2.0/27 is right"),
        ((f"{TERM}then remote-gateway 1.2.3",), "'1.2.3' is no address"),
        ((f"{SET}ipsec-vpn-options local-gateway => ",), "local-gateway with an address is needed"),
        (
            (f"{SET}ipsec-vpn-options local-gateway => {SET}ipsec-vpn-options local-gateway x",),
            "'x' is no address",
        ),
        ((f"{SET}ipsec-vpn-rules other",), "there is no ipsec-vpn rule 'other'"),
        ((f"{SET}ipsec-vpn-rule-sets other",), "there is no ipsec-vpn rule-set 'other'"),
        ((f"{SET}next-hop-service outside-service-interface => ",), "names no outside-service-interface"),
        ((f"{SET}interface-service service-interface sp-0/3/0",), "cannot stand beside next-hop-service"),
        (
            (
                "set interfaces sp-0/3/0 unit 1 service-domain => set interfaces sp-0/3/0 unit 1 service-domain outside",
            ),
            "not of service-domain inside",
        ),
        (("set interfaces sp-0/3/0 unit 2 => ",), "there is no sp-0/3/0.2"),
        ((f"{TERM}then dynamic ike-policy other",), "there is no ipsec-vpn ike policy 'other'"),
        ((f"{TERM}then dynamic ipsec-policy other",), "there is no ipsec-vpn ipsec policy 'other'"),
        ((f"{IKE}proposals other",), "there is no ipsec-vpn ike proposal 'other'"),
        ((f"{IKE}proposals => ",), "names no proposals"),
        ((f"{IKE}version 3",), "one of 1, 2 is right"),
        ((f"{IKE}mode quick",), "one of main, aggressive is right"),
        ((f"{IKE}pre-shared-key => ",), "ascii-text or hexadecimal is needed"),
        ((f"{IKE}pre-shared-key => {IKE}pre-shared-key hexadecimal abc",), "is not hexadecimal"),
        ((f"{IKE}pre-shared-key => {IKE}pre-shared-key ascii-text $9$abc",), "is no $9$ text"),
        ((f'{IKE}pre-shared-key => {IKE}pre-shared-key ascii-text ""',), "is empty"),
        ((f"{IKE}local-id fqdn",), "a value is missing"),
        ((f"{IKE}remote-id ipv4_addr 1.2.3",), "is no address"),
        ((f"{VPN}ike proposal proposal-1 dh-group group3",), "one of group1, group2"),
        ((f"{VPN}ike proposal proposal-1 dh-group => ",), "names no dh-group"),
        ((f"{VPN}ike proposal proposal-1 lifetime-seconds 179",), "from 180 to 86,400"),
        ((f"{VPN}ipsec proposal dynamic-1 lifetime-seconds 86401",), "from 180 to 86,400"),
        ((f"{VPN}ipsec proposal dynamic-1 protocol x",), "one of esp, ah, bundle"),
        (
            (f"{VPN}ipsec proposal dynamic-1 authentication-algorithm hmac-sha2-256",),
            "hmac-sha-256-96 or hmac-sha-256-128",
        ),
        ((f"{VPN}rule To-TTP-Company match-direction sideways",), "one of input, output"),
        (("set routing-options static route 2.2.2.0/33 next-hop sp-0/3/0.1",), "'2.2.2.0/33' is no prefix"),
        (("set interfaces lo0 unit 0 family inet address 2.2.2.2.2",), "'2.2.2.2.2' is no address"),
        (("set interfaces lo0 unit 0 family inet6 address 2001:db8::/129",), "is no address of an interface"),
        ((f'{VPN}rule "a b" term 1 then x', f'{SET}ipsec-vpn-rules "a b"'), "without blanks and commas"),
    ],
)
def test_what_cannot_be(changes: tuple[str, ...], words: str) -> None:
    imported = changed(*changes)
    assert any(words in each.reason for each in imported.faults), imported.faults
    assert not any("a_password_here" in f"{each.statement} {each.reason}" for each in imported.faults)


def test_terms_and_sets_get_names_of_their_own() -> None:
    second = TERM.replace("term 1", "term b")
    imported = changed(
        f"{second}from source-address 100.100.100.101/32",
        f"{second}from destination-address 3.3.3.0/24",
        f"{second}then remote-gateway 123.123.123.124",
        f"{second}then dynamic ike-policy 123_123_123_123",
        f"{second}then dynamic ipsec-policy dynamic-policy-1",
    )
    assert imported.faults == []
    names = [names[1] for names in imported.draft.sections if names[0] == "tunnel"]
    assert names == ["To-TTP-Company-1", "To-TTP-Company-b"]
    assert [imported.draft.value(("tunnel", name), "term") for name in names] == ["1", "b"]
    assert check(imported) == []
    # Which of both tasking comes through is not known.
    assert imported.draft.value(("control_source", "ft-ttp"), "tunnel") is None
    assert imported.draft.value(("dtcp", "ssh"), "listen") == ["0.0.0.0:32001"]
    assert any("does not say" in note or "do not say" in note for note in imported.draft.notes)


def test_a_service_set_that_show_could_not_name() -> None:
    """What is only there to be shown is no reason to leave a tunnel out."""
    text = HOW_TO.replace("IPSEC-TTP-Company-1", '"a set, and more"')
    imported = import_text(text, {"ge-0/0/0": "eth0"})
    assert "service_set" not in tunnel(imported)
    assert tunnel(imported)["rule"] == NAME


def test_rule_sets() -> None:
    imported = changed(
        f"{SET}ipsec-vpn-rules => {SET}ipsec-vpn-rule-sets all", f"{VPN}rule-set all rule To-TTP-Company"
    )
    assert tunnel(imported)["remote_gateway"] == "123.123.123.123"
    assert not [each for each in imported.entries if each.outcome == "unmapped"]


def test_networks_of_which_no_address_stands_out() -> None:
    imported = changed(f"{TERM}from source-address => {TERM}from source-address 100.100.100.0/24")
    tunnel(imported)
    assert imported.draft.value(("dtcp", "ssh"), "listen") == ["0.0.0.0:32001"]


def test_what_stands_beside_the_gateway() -> None:
    imported = changed(
        f"{SET}ipsec-vpn-options local-gateway routing-instance r", f"{VPN}establish-tunnels responder-only"
    )
    assert tunnel(imported)["local_gateway"] == "100.100.100.100"
    assert ended(imported, "routing-instance r") == ended(imported, "responder-only") == "unmapped"
    imported = changed(
        f"{SET}ipsec-vpn-options local-gateway => {SET}ipsec-vpn-options local-gateway 100.100.100.100 interface x.0"
    )
    assert tunnel(imported)["local_gateway"] == "100.100.100.100"


def test_routes() -> None:
    imported = changed(
        "set routing-options static route 0.0.0.0/0 next-hop 192.0.2.1",
        "set routing-options static route 2.2.2.0/28 next-hop sp-0/3/0.1",
        "set routing-options static route 9.9.9.0/24 next-hop sp-0/3/0.1",
    )
    reasons = {
        each.statement.split()[3]: (each.outcome, each.reason)
        for each in imported.entries
        if " route " in each.statement
    }
    assert (
        reasons["2.2.2.0/27"]
        == reasons["2.2.2.0/28"]
        == (
            "ignored",
            "tunnel.To-TTP-Company.remote_networks says what goes through it",
        )
    )
    assert reasons["0.0.0.0/0"] == ("ignored", "this system has routes of its own")
    assert reasons["9.9.9.0/24"][0] == "unmapped"


def test_sources_elsewhere_are_not_locked_out() -> None:
    capture = "set services dynamic-flow-capture capture-group g "
    flow_tap = "set services flow-tap => "
    through = changed(
        flow_tap,
        f"{capture}control-source cs1 shared-key k",
        f"{capture}control-source cs1 source-addresses 2.2.2.2",
        f"{capture}content-destination cd1 address 2.2.2.2",
    )
    assert through.draft.value(("control_source", "cs1"), "tunnel") == NAME
    assert through.draft.value(("dtcp", "udp"), "listen") == ["100.100.100.101:1814"]
    assert through.draft.value(("content_destination", "cd1"), "source_address") == "100.100.100.101"
    assert check(through) == []
    beside = changed(
        flow_tap,
        f"{capture}control-source cs1 shared-key k",
        f"{capture}control-source cs1 source-addresses 192.0.2.9",
    )
    assert beside.draft.value(("control_source", "cs1"), "tunnel") is None
    assert beside.draft.value(("dtcp", "ssh"), "listen") == ["0.0.0.0:32001"]


def test_too_many() -> None:
    sets = "".join(
        f"set services service-set s{at} ipsec-vpn-options local-gateway 100.100.100.100\n"
        f"set services service-set s{at} ipsec-vpn-rules To-TTP-Company\n"
        for at in range(1_100)
    )
    assert any("more than 1,000 tunnels" in each.reason for each in changed(sets).faults)
    networks = "".join(
        f"{TERM}from destination-address 10.{at // 256}.{at % 256}.0/24\n" for at in range(1_100)
    )
    assert any("at most 1,024" in each.reason for each in changed(networks).faults)
