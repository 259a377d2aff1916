"""Dynamic flow capture: control sources over UDP, content destinations, limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtap.config import load
from flowtap.config.junos import Import, check, import_text, write

GROUP = "set services dynamic-flow-capture capture-group g "
SOURCE = GROUP + 'control-source cs1 shared-key "0123456789abcdef"\n'
DESTINATION = GROUP + "content-destination cd1 address 192.0.2.9\n"


def values(imported: Import, *section: str) -> dict[str, object]:
    return {
        key: setting.value
        for key, setting in imported.draft.sections.get(section, {}).items()
        if not setting.stands_in
    }


def test_a_whole_group(tmp_path: Path) -> None:
    text = (
        SOURCE
        + DESTINATION
        + (
            GROUP
            + "control-source cs1 source-addresses [ 192.0.2.1 192.0.2.2 ]\n"
            + GROUP
            + "control-source cs1 service-port 2400\n"
            + GROUP
            + "control-source cs1 notification-targets 192.0.2.3 port 2100\n"
            + GROUP
            + "control-source cs1 allowed-destinations [ cd1 cd2 ]\n"
            + GROUP
            + "control-source cs1 minimum-priority 7\n"
            + GROUP
            + "control-source cs1 no-syslog\n"
            + GROUP
            + "content-destination cd1 ttl 244\n"
            + GROUP
            + "content-destination cd1 soft-limit 2m\n"
            + GROUP
            + "content-destination cd1 soft-limit-clear 1500k\n"
            + GROUP
            + "content-destination cd1 hard-limit 4000000\n"
            + GROUP
            + "content-destination cd1 hard-limit-target 3m\n"
            + GROUP
            + "duplicates-dropped-periodicity 40\n"
            + GROUP
            + "max-duplicates 3\n"
            + GROUP
            + "interfaces dfc-0/0/0\n"
            + GROUP
            + "input-packet-rate-threshold 300k\n"
            + GROUP
            + "pic-memory-threshold percentage 80\n"
            "set services dynamic-flow-capture g-duplicates-dropped-periodicity 30\n"
        )
    )
    imported = import_text(text, {"ge-0/0/0": "eth0"})
    assert not imported.faults
    assert values(imported, "control_source", "cs1") == {
        "key_file": "cs1.key",
        "addresses": ["192.0.2.1", "192.0.2.2"],
        "notification_targets": ["192.0.2.3:2100"],
        "minimum_priority": 7,
        "allowed_destinations": ["cd1", "cd2"],
    }
    assert values(imported, "content_destination", "cd1") == {
        "address": "192.0.2.9",
        "ttl": 244,
        "soft_limit_clear_bps": 1_500_000,
        "soft_limit_bps": 2_000_000,
        "hard_limit_target_bps": 3_000_000,
        "hard_limit_bps": 4_000_000,
    }
    assert values(imported, "dtcp", "udp") == {"listen": ["0.0.0.0:2400"]}
    assert values(imported, "policy") == {"duplicates_dropped_period_s": 40}
    assert imported.draft.files["cs1.key"].content == b"0123456789abcdef\n"
    unmapped = {each.statement.split()[-1] for each in imported.entries if each.outcome == "unmapped"}
    # The general period is another one than the group's, which counts.
    assert unmapped == {"no-syslog", "3", "30"}
    assert check(imported) == []
    # What the router had on its card is left to be written, and said.
    assert [each for each in imported.draft.needed if "content_destination.cd1.port" in each]
    write(imported, "x", tmp_path / "out", replace=False)
    path = tmp_path / "out" / "flowtap.toml"
    text = path.read_text()
    assert "# port =  # needed\n" in text
    path.write_text(
        text.replace("# port =  #", "port = 30000  #").replace(
            "# source_address =", 'source_address = "192.0.2.8"'
        )
    )
    assert load(path).values.content_destination["cd1"].hard_limit_bps == 4_000_000


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("control-source cs1 service-port 65536", "from 1 to 65,535"),
        ("control-source cs1 minimum-priority 256", "from 0 to 255"),
        ("control-source cs1 source-addresses 2.2.2.2.2", "'2.2.2.2.2' is no IPv4 address"),
        (
            "control-source cs1 source-addresses [ " + " ".join(f"192.0.2.{at}" for at in range(9)) + " ]",
            "at most 8",
        ),
        (
            "control-source cs1 allowed-destinations [ " + " ".join(f"cd{at}" for at in range(17)) + " ]",
            "at most 16",
        ),
        ("control-source cs1 notification-targets 192.0.2.1", "ADDRESS port NUMBER is right"),
        ("control-source cs1 notification-targets 192.0.2.1 port 0", "from 1 to 65,535"),
        ('control-source cs1 shared-key "' + "k" * 21 + '"', "1 to 20 characters"),
        ('control-source cs1 shared-key ""', "1 to 20 characters"),
        ("control-source cs1 shared-key $9$abc", "is no $9$ text"),
        ("control-source " + "c" * 49 + " service-port 1", "a name of 1 to 48"),
        ("content-destination cd1 ttl 0", "from 1 to 255"),
        ("content-destination cd1 ttl 256", "from 1 to 255"),
        ("content-destination cd2 ttl 5", "names no address"),
        ("content-destination cd1 address 2001:db8::1", "is no IPv4 address"),
        ("content-destination cd1 soft-limit 5", "soft-limit without soft-limit-clear"),
        ("content-destination cd1 soft-limit-clear 5", "soft-limit-clear without soft-limit"),
        ("content-destination cd1 hard-limit 5", "hard-limit without hard-limit-target"),
        ("content-destination cd1 hard-limit-target 5", "hard-limit-target without hard-limit"),
        ("content-destination cd1 hard-limit lots", "bits a second are right"),
        (
            "content-destination cd1 hard-limit 5\n" + GROUP + "content-destination cd1 hard-limit-target 5",
            "hard-limit-target must be below hard-limit",
        ),
        ("max-duplicates 65", "from 1 to 64"),
        ("duplicates-dropped-periodicity 256", "from 1 to 255"),
        ("pic-memory-threshold percentage 9", "from 10 to 100"),
        ("input-packet-rate-threshold 2m", "at most 1,024,000"),
        ("interfaces [ dfc-0/0/0 dfc-1/0/0 ]", "at most 1"),
    ],
)
def test_what_cannot_be(lines: str, words: str) -> None:
    reasons = [each.reason for each in import_text(SOURCE + DESTINATION + GROUP + lines, {}).faults]
    assert any(words in reason for reason in reasons), reasons
    # What is secret is in no message.
    assert not any("0123456789abcdef" in reason or "kkkk" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("number", "what", "is_fault"),
    [
        (16, "capture-group g{at} control-source cs{at} shared-key k", False),
        (17, "capture-group g{at} control-source cs{at} shared-key k", True),
        (64, "capture-group g control-source cs{at} shared-key k", False),
        (65, "capture-group g control-source cs{at} shared-key k", True),
        (64, "capture-group g content-destination cd{at} address 192.0.2.1", False),
        (65, "capture-group g content-destination cd{at} address 192.0.2.1", True),
    ],
)
def test_how_many_there_may_be(number: int, what: str, is_fault: bool) -> None:
    text = "".join(f"set services dynamic-flow-capture {what.format(at=at)}\n" for at in range(number))
    assert bool(import_text(text, {}).faults) == is_fault


def test_groups_stay_apart() -> None:
    base = "set services dynamic-flow-capture capture-group "
    imported = import_text(
        f"{base}a control-source one shared-key k\n{base}a content-destination cd1 address 192.0.2.1\n"
        f"{base}b control-source two shared-key k\n{base}b content-destination cd2 address 192.0.2.2\n"
        f"{base}b control-source one shared-key other\n{base}b content-destination cd1 address 192.0.2.3",
        {},
    )
    assert values(imported, "control_source", "one")["allowed_destinations"] == ["cd1"]
    assert values(imported, "control_source", "two")["allowed_destinations"] == ["cd2"]
    assert [(each.line, each.outcome) for each in imported.entries if each.outcome == "unmapped"] == [
        (5, "unmapped"),
        (6, "unmapped"),
    ]
    assert values(imported, "dtcp", "udp") == {"listen": ["0.0.0.0:1814"]}


@pytest.mark.parametrize(
    ("key", "content", "outcome"),
    [("$9$LbHX-wg4Z", b"lc\n", "mapped"), ("$8$aes256-gcm$x", b"", "unmapped")],
)
def test_keys_that_are_not_in_clear(key: str, content: bytes, outcome: str) -> None:
    imported = import_text(f'{GROUP}control-source cs1 shared-key "{key}"', {})
    assert imported.draft.files["cs1.key"].content == content
    (entry,) = imported.entries
    assert (entry.outcome, entry.statement.split()[-1]) == (outcome, "...")
    assert any("cs1.key_file" in each for each in imported.draft.needed) == (outcome == "unmapped")


def test_nobody_can_act_for_a_source_without_key_and_login() -> None:
    imported = import_text(f"set system host-name x\n{GROUP}control-source cs1 service-port 2400", {})
    assert ("control_source", "cs1") not in imported.draft.sections
    assert [each.reason for each in imported.entries if each.outcome == "unmapped"] == [
        "it has neither a shared-key nor a login of its name, so nobody could act for it"
    ]


def test_a_login_of_the_same_name_is_the_same_source() -> None:
    imported = import_text(
        "set system login class c permissions flow-tap-operation\nset system login user cs1 class c\n"
        + GROUP
        + "control-source cs1 minimum-priority 3",
        {},
    )
    assert values(imported, "control_source", "cs1") == {"minimum_priority": 3}
    assert check(imported) == []


def test_a_priority_that_leaves_none_is_not_mapped() -> None:
    imported = import_text(SOURCE + GROUP + "control-source cs1 minimum-priority 255", {})
    assert [each.outcome for each in imported.entries] == ["mapped", "unmapped"]
