"""Classes, users and the limits of DTCP over SSH."""

from __future__ import annotations

import asyncssh
import pytest

from flowtap.config.junos import Import, import_text

KEY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
HASH = "$6$salt$0123456789abcdef"
CLASS = "set system login class c permissions flow-tap-operation\n"


def outcomes(imported: Import) -> dict[str, tuple[str, str | None]]:
    return {each.statement: (each.outcome, each.target) for each in imported.entries}


def values(imported: Import, *section: str) -> dict[str, object]:
    return {key: setting.value for key, setting in imported.draft.sections.get(section, {}).items()}


def faults(text: str) -> list[tuple[int, str]]:
    return [(each.line, each.reason) for each in import_text(text, {}).faults]


def test_permissions_are_taken_by_name() -> None:
    imported = import_text(
        "set system login class c permissions [ view flow-tap all flow-tap-operation ]\n"
        "set system login class other permissions [ view interface ]\nset system login class c idle-timeout 5",
        {},
    )
    assert values(imported, "login", "class", "c") == {"permissions": ["flow-tap", "flow-tap-operation"]}
    assert ("login", "class", "other") not in imported.draft.sections
    found = outcomes(imported)
    assert found["system login class c permissions flow-tap"] == ("mapped", "login.class.c.permissions")
    for ignored in ("c permissions view", "c permissions all", "other permissions view", "c idle-timeout 5"):
        assert found[f"system login class {ignored}"] == ("ignored", None)
    (reason,) = [each.reason for each in imported.entries if each.statement.endswith(" all")]
    assert reason is not None
    assert "never contains flow-tap-operation" in reason
    # He who tasks could also look: said, because it need not be so.
    assert any("flow-tap-operation alone is enough" in note for note in imported.draft.notes)


def test_users_of_other_classes_stay_on_the_router() -> None:
    imported = import_text(
        CLASS + "set system login user md class c\nset system login user md full-name Somebody\n"
        "set system login user admin class super-user\nset system login user admin uid 2000\n"
        "set system login class x permissions view\nset system login user other class x\n"
        "set system login user none uid 2001",
        {},
    )
    assert [names[2] for names in imported.draft.sections if names[:2] == ("login", "user")] == ["md"]
    assert ("control_source", "md") in imported.draft.sections
    assert {each.outcome for each in imported.entries if "user md" not in each.statement} == {
        "mapped",
        "ignored",
    }
    assert not imported.faults


def test_numbers_of_users_are_told_because_they_may_be_somebody_else_s() -> None:
    lines = "".join(
        f"set system login user u{number} class c\nset system login user u{number} uid {number}\n"
        for number in range(2000, 2007)
    )
    (note,) = [note for note in import_text(CLASS + lines, {}).draft.notes if "uid" in note]
    assert note.endswith(": u2000 2000, u2001 2001, u2002 2002, u2003 2003, u2004 2004 and 2 more")
    notes = import_text(CLASS + "set system login user u class c", {}).draft.notes
    assert not any("uid" in note for note in notes)


def test_a_server_that_is_deactivated_hears_nobody_else() -> None:
    server = "system services flow-tap-dtcp"
    text = f"{CLASS}set system login user u class c\nset {server} ssh connection-limit 5\n"
    assert import_text(text, {}).draft.value(("dtcp", "ssh"), "listen") == ["0.0.0.0:32001"]
    for words in (server, "system services"):
        draft = import_text(f"{text}deactivate {words}\n", {}).draft
        assert draft.value(("dtcp", "ssh"), "listen") == ["127.0.0.1:32001"]
        assert any("loopback only" in note for note in draft.notes)


def test_a_user_whose_class_is_deactivated_has_none() -> None:
    imported = import_text(
        CLASS + "set system login user md class c\ndeactivate system login user md class", {}
    )
    assert imported.faults == []
    assert ("login", "user", "md") not in imported.draft.sections


def test_who_only_looks_is_no_control_source() -> None:
    imported = import_text(
        "set system login class look permissions flow-tap\nset system login user op class look", {}
    )
    assert ("login", "user", "op") in imported.draft.sections
    assert ("control_source", "op") not in imported.draft.sections


@pytest.mark.parametrize(
    ("authentication", "words"),
    [
        ('encrypted-password "password_for_md"', "no hash of crypt(3)"),
        (f'encrypted-password "{HASH}"', "cannot be turned into one of Argon2"),
        ("plain-text-password-value secret", "no hash of crypt(3)"),
    ],
)
def test_a_password_locks(authentication: str, words: str) -> None:
    imported = import_text(
        CLASS + f"set system login user md class c\nset system login user md authentication {authentication}",
        {},
    )
    assert values(imported, "login", "user", "md") == {"class": "c", "password_hash_file": "md.hash"}
    assert imported.draft.files["md.hash"].content == b"!\n"
    assert imported.draft.files["md.hash"].is_secret
    assert any(words in each and "flowtap config set-password md" in each for each in imported.draft.needed)
    shown = outcomes(imported)
    assert shown[f"system login user md authentication {authentication.split(maxsplit=1)[0]} ..."] == (
        "mapped",
        "login.user.md.password_hash_file",
    )


def test_public_keys_go_into_a_file() -> None:
    imported = import_text(
        CLASS + "set system login user md class c\n"
        f'set system login user md authentication ssh-ed25519 "{KEY} md@host"\n'
        f'set system login user md authentication ssh-ed25519 "{KEY}" from "192.0.2.*"\n'
        f'set system login user md authentication ssh-rsa "{KEY}" key-options no-pty\n'
        'set system login user md authentication ssh-dsa "ssh-dss AAAA"',
        {},
    )
    assert values(imported, "login", "user", "md") == {"class": "c", "authorized_keys_file": "md.pub"}
    file = imported.draft.files["md.pub"]
    assert file.content.decode().splitlines() == [f"{KEY} md@host", f'from="192.0.2.*" {KEY}']
    assert not file.is_secret
    keys = asyncssh.import_authorized_keys(file.content.decode())
    assert keys.validate(asyncssh.import_public_key(KEY), "", "192.0.2.7", None) is not None
    assert outcomes(imported)["system login user md authentication ssh-dsa ..."][0] == "unmapped"
    assert outcomes(imported)["system login user md authentication ssh-rsa ..."][0] == "unmapped"
    assert not any("locked" in each for each in imported.draft.needed)


def test_names_of_files_stay_in_the_folder() -> None:
    imported = import_text(
        CLASS
        + "".join(
            f'set system login user "{name}" class c\n' for name in ("../../x", "..", "a/b", "a_b", "é")
        ),
        {},
    )
    assert sorted(imported.draft.files) == ["_.._x.hash", "_.hash", "a_b-2.hash", "a_b.hash"]
    assert [each.line for each in imported.faults] == [6]


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ("set system login user md class d", 2, "there is no class 'd'"),
        ("set system login user md class c\nset system login user md uid 99", 3, "from 100 to 64,000"),
        ("set system login user md class c\nset system login user md uid 64001", 3, "from 100 to 64,000"),
        ("set system login user md class c\nset system login user md uid x", 3, "from 100 to 64,000"),
        ("set system login user md class c\nset system login user md uid ٣٠٠", 3, "from 100 to 64,000"),
        ("set system login user md class c\nset system login user md uid", 3, "uid has no value"),
        ("set system login user md class c uid 200", 2, "a statement of their own"),
        ("set system login user md uid 200 class c", 2, "class stands behind the value"),
        (
            (
                "set system login user a class c\nset system login user a uid 200\n"
                "set system login user b class c\nset system login user b uid 200"
            ),
            5,
            "a has it too",
        ),
        ('set system login user "a b" class c', 2, "without blanks and commas"),
        (
            'set system login user md class c\nset system login user md authentication ssh-rsa "ssh-rsa AAAA"',
            3,
            "is no public key",
        ),
        ("set system login class c permissions flow-tap x", 2, "nothing stands behind the permission"),
        ("set system services flow-tap-dtcp ssh connection-limit 0", 2, "from 1 to 250"),
        ("set system services flow-tap-dtcp ssh connection-limit 251", 2, "from 1 to 250"),
        ("set system services flow-tap-dtcp ssh rate-limit 251", 2, "from 1 to 250"),
    ],
)
def test_what_cannot_be(lines: str, line: int, words: str) -> None:
    assert any(place == line and words in reason for place, reason in faults(CLASS + lines)), faults(
        CLASS + lines
    )


def test_limits() -> None:
    imported = import_text(
        CLASS + "set system services flow-tap-dtcp ssh connection-limit 5\n"
        "set system services flow-tap-dtcp ssh rate-limit 250\nset system services dtcp-only",
        {},
    )
    section = values(imported, "dtcp", "ssh")
    assert (section["connection_limit"], section["rate_limit"]) == (5, 250)
    assert outcomes(imported)["system services dtcp-only"] == ("unmapped", None)


def test_the_last_value_counts() -> None:
    imported = import_text(
        "set system services flow-tap-dtcp ssh rate-limit 7\nset system services flow-tap-dtcp ssh rate-limit 9",
        {},
    )
    assert values(imported, "dtcp", "ssh")["rate_limit"] == 9
    assert [(each.outcome, each.reason) for each in imported.entries] == [
        ("ignored", "replaced in line 2, column 50"),
        ("mapped", None),
    ]
