from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from flowtap.cli.main import run
from flowtap.config import load, read_secret
from flowtap.control.authorize import filter_reach
from flowtap.dtcp import FilterText, Scope
from flowtap.errors import ConfigurationError
from flowtap.service.filters import FilterReader
from flowtap.service.logins import Logins
from flowtap.service.places import Places
from flowtap.service.policy import policy

GOOD = """
[element]
name = "lab"
[element.replay]
files = ["a.pcap"]
pace = 1000
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.user.md]
class = "tasker"
password_hash_file = "hash"
[control_source.md]
allowed_destinations = ["cd1"]
[content_destination.cd1]
address = "192.0.2.9"
port = 30000
source_address = "192.0.2.1"
[dtcp.ssh]
listen = ["127.0.0.1:32001", "[::1]:32001"]
host_key_file = "host_key"
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "flowtap.toml"
    path.write_text(text)
    return path


def test_a_good_one(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD))
    assert loaded.values.element.name == "lab"
    assert loaded.values.content_destination["cd1"].source_port == 65_534
    assert loaded.locate("x") == tmp_path / "x"


@pytest.mark.ledger("T-028", "T-029")
@pytest.mark.parametrize(
    ("before", "after", "key", "words"),
    [
        ('name = "lab"', 'nmae = "lab"', "element.nmae", "no such key"),
        ("[element.replay]", "[element.reply]", "element.reply", "no such key"),
        ("pace = 1000", "pace = 0", "element.replay.pace", "greater than 0"),
        ("pace = 1000", 'pace = "quick"', "element.replay.pace", "'recorded' or 'fast'"),
        ('files = ["a.pcap"]', "files = []", "element.replay.files", "at least 1"),
        ('"flow-tap-operation"', '"any"', "login.class.tasker.permissions[0]", "flow-tap-operation"),
        ('class = "tasker"', 'class = "other"', "", "[login.class.other]"),
        ('password_hash_file = "hash"', "", "login.user.md", "password_hash_file or authorized_keys_file"),
        ("[control_source.md]", "[control_source.other]", "", "[login.user.other]"),
        ('["cd1"]\n', '["cd1", "cd1"]\n', "", "given twice"),
        (
            "[control_source.md]\n",
            (
                '[login.user.two]\nclass = "tasker"\nuid = 5\npassword_hash_file = "h"\n[login.user.three]\n'
                'class = "tasker"\nuid = 5\npassword_hash_file = "h"\n[control_source.md]\n'
            ),
            "",
            "two users have the same uid",
        ),
        (
            '["cd1"]\n',
            '["cd1"]\nallowed_prefixes = ["192.0.2.1/24"]\n',
            "control_source.md.allowed_prefixes[0]",
            "host bits",
        ),
        ('["cd1"]\n', '["cd1"]\nnarrowest_prefix_v4 = 33\n', "control_source.md.narrowest_prefix_v4", "32"),
        (
            "port = 30000",
            "port = 30000\nsoft_limit_bps = 5",
            "content_destination.cd1",
            "soft_limit_clear_bps and soft_limit_bps: both are needed",
        ),
        (
            "port = 30000",
            "port = 30000\nhard_limit_bps = 5\nhard_limit_target_bps = 5",
            "content_destination.cd1",
            "the first must be below the second",
        ),
        (
            "port = 30000",
            (
                "port = 30000\nsoft_limit_bps = 7\nsoft_limit_clear_bps = 1\nhard_limit_bps = 9\n"
                "hard_limit_target_bps = 5"
            ),
            "content_destination.cd1",
            "soft_limit_bps must be below hard_limit_target_bps",
        ),
        # No other version of notifications could be reconciled with the requests that are served.
        (
            '["cd1"]\n',
            '["cd1"]\nnotification_version = "0.5"\n',
            "control_source.md.notification_version",
            "'0.6', '0.7' or '0.8'",
        ),
        (
            '["cd1"]\n',
            '["cd1"]\nnotification_version = "0.9"\n',
            "control_source.md.notification_version",
            "'0.6', '0.7' or '0.8'",
        ),
        ("port = 30000", "port = 70000", "content_destination.cd1.port", "65535"),
        ("port = 30000", "", "content_destination.cd1.port", "is missing"),
        ('"192.0.2.9"', '"192.0.2.256"', "content_destination.cd1.address", "IPv4"),
        ('"192.0.2.9"', '"2001:db8::9"', "content_destination.cd1", "one family"),
        ('"192.0.2.9"', '"0.0.0.0"', "content_destination.cd1", "address is unspecified"),
        ('"192.0.2.1"', '"0.0.0.0"', "content_destination.cd1", "one host is right"),
        ('"192.0.2.1"', '"239.1.1.1"', "content_destination.cd1", "one host is right"),
        ('"192.0.2.1"', '"255.255.255.255"', "content_destination.cd1", "one host is right"),
        ("127.0.0.1:32001", "localhost", "dtcp.ssh.listen", "ADDRESS:PORT"),
        ("127.0.0.1:32001", "127.0.0.1:99999", "dtcp.ssh.listen", "ADDRESS:PORT"),
        ('host_key_file = "host_key"', "", "dtcp.ssh.host_key_file", "is missing"),
        ('name = "lab"', 'interfaces = ["eth0"]', "element", "one source is right"),
        ('[element.replay]\nfiles = ["a.pcap"]\npace = 1000', "", "element", "one source is right"),
        # What no counter, clock or system call holds is a fault of the file.
        (
            '["cd1"]\n',
            f'["cd1"]\nmax_bits_per_s = {2**63}\n',
            "control_source.md.max_bits_per_s",
            str(2**63 - 1),
        ),
        ("pace = 1000", "pace = inf", "element.replay.pace", "finite"),
        (
            "pace = 1000",
            f"wait_for_criteria = {2**80}",
            "element.replay.wait_for_criteria",
            str(2**63 - 1),
        ),
        ('class = "tasker"', f'class = "tasker"\nuid = {2**32}', "login.user.md.uid", str(2**32 - 2)),
        ('host_key_file = "host_key"', 'host_key_file = "a\\u0000"', "dtcp.ssh.host_key_file", "without NUL"),
        ('files = ["a.pcap"]', 'files = ["a\\u0000"]', "element.replay.files[0]", "without NUL"),
        (
            'password_hash_file = "hash"',
            'password_hash_file = ""',
            "login.user.md.password_hash_file",
            "not empty",
        ),
    ],
)
def test_every_wrong_key_is_named(before: str, after: str, key: str, words: str, tmp_path: Path) -> None:
    assert before in GOOD
    path = write(tmp_path, GOOD.replace(before, after))
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.key == key
    if key:
        assert f"  {key}: " in str(caught.value)


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("port = 30000", "port = 0").replace("pace = 1000", "pace = -1")
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text))
    assert "content_destination.cd1.port" in str(caught.value)
    assert "element.replay.pace" in str(caught.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    for content, words in (
        (b"\xff", "UTF-8"),
        (b"[", "TOML"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
        (b"a = " + b"1" * 5_000, "digits"),
    ):
        (tmp_path / "f.toml").write_bytes(content)
        with pytest.raises(ConfigurationError, match=words):
            load(tmp_path / "f.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)


def test_secrets_are_nobody_else_s(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD))
    secret = tmp_path / "secret"
    for content, mode, words in (
        (b"abc", 0o640, "others can read it"),
        (b"abc", 0o604, "others can read it"),
        (b" \n", 0o600, "is empty"),
    ):
        secret.write_bytes(content)
        secret.chmod(mode)
        with pytest.raises(ConfigurationError, match=words) as caught:
            read_secret(loaded, "secret", "the.key")
        assert caught.value.key == "the.key"
        assert "abc" not in str(caught.value)
    # A key may be any octets; an editor's line end is none of them.
    for content, octets in (
        (b"abc\n", b"abc"),
        (b"abc\r\n", b"abc"),
        (b" abc\t\n\n", b" abc\t\n"),
        (b"\x20\x0b\x0c\x0d", b"\x20\x0b\x0c\x0d"),
        (b"abc\r", b"abc\r"),
    ):
        secret.write_bytes(b"x" + content)
        assert read_secret(loaded, "secret", "the.key") == b"x" + octets
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_secret(loaded, "missing", "the.key")


def test_config_check_looks_at_the_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD)
    for name, content, words in (
        (None, b"", "dtcp.ssh.host_key_file"),
        ("host_key", b"no key", "holds no private key"),
    ):
        if name is not None:
            (tmp_path / name).write_bytes(content)
            (tmp_path / name).chmod(0o600)
        assert run(["config", "check", str(path)]) == 3
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_files_that_others_can_change_decide_nothing(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace('password_hash_file = "hash"', 'authorized_keys_file = "keys"'))
    asyncssh.generate_private_key("ssh-ed25519").write_public_key(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o644)
    path.chmod(0o644)
    Logins(load(path))
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"authorized_keys_file: .*others can change it"):
        Logins(load(path))
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="others can change it"):
        load(path)


def test_as_many_exclusions_as_the_matcher_takes(tmp_path: Path) -> None:
    """With a filter that is as long as tasking may make it something is left."""

    def excluding(own: int, everybody: int) -> Path:
        lists = [
            ", ".join(f'"10.{tens}.{at // 256}.{at % 256}"' for at in range(count))
            for tens, count in ((1, own), (2, everybody))
        ]
        text = GOOD.replace('["cd1"]\n', f'["cd1"]\nexcluded_prefixes = [{lists[0]}]\n')
        return write(tmp_path, f"{text}[policy]\nexcluded_prefixes = [{lists[1]}]\n")

    for own, everybody in ((1_025, 0), (0, 1_025), (1_000, 25)):
        with pytest.raises(ConfigurationError, match=r"excluded_prefixes: .*1,?024"):
            load(excluding(own, everybody))
    source = policy(load(excluding(1_000, 24)).values).control_sources["md"]
    assert len(source.excluded) == 1_024
    elements = ",".join(f"192.0.{at // 256}.{at % 256}" for at in range(1_024))
    filter_reach(source, FilterText(source=elements), Scope(), FilterReader(Places([], {}, {})))


@pytest.mark.ledger("T-015")
def test_udp_listens_where_it_is_told(tmp_path: Path) -> None:
    text = GOOD + '[dtcp.udp]\nlisten = ["192.0.2.1", "192.0.2.2:5000", "[2001:db8::1]:1814"]\n'
    loaded = load(write(tmp_path, text))
    assert loaded.values.dtcp.udp.listen == ["192.0.2.1:1814", "192.0.2.2:5000", "[2001:db8::1]:1814"]
    with pytest.raises(ConfigurationError, match="ADDRESS:PORT"):
        load(write(tmp_path, text.replace('"192.0.2.1"', '"here"')))
    # A control source of UDP needs a key of its own, and no login.
    source = '[control_source.other]\nkey_file = "key"\n'
    load(write(tmp_path, text + source))
    for wrong in (GOOD + source, text + "[control_source.other]\n"):
        with pytest.raises(ConfigurationError, match="nobody can act for it"):
            load(write(tmp_path, wrong))
