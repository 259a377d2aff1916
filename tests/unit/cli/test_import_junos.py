"""flowtap config import-junos, as an operator uses and misuses it."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from flowtap.cli.main import run
from flowtap.config import load
from flowtap.config.junos import folder
from flowtap.service.logins import Logins

CONFIGURATIONS = Path(__file__).parents[2] / "configurations"
HOW_TO = CONFIGURATIONS / "how-to.conf"
FILES = {
    "To-TTP-Company.psk": 0o600,
    "flowtap.toml": 0o644,
    "ft-ttp.hash": 0o600,
    "host_key": 0o600,
    "host_key.pub": 0o644,
    "import-report.txt": 0o644,
}


def import_how_to(output: Path, *words: str, file: Path = HOW_TO) -> int:
    return run(
        ["config", "import-junos", str(file), "--interface", "ge-0/0/0=eth0", "--output", str(output), *words]
    )


@pytest.mark.parametrize("name", ["how-to.conf", "how-to.set"])
def test_the_how_to_becomes_a_configuration_that_is_valid(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert import_how_to(output, file=CONFIGURATIONS / name) == 0
    told = capsys.readouterr().out
    assert "45 statements: 27 mapped, 18 ignored, 0 could not be mapped" in told
    assert "flowtap config set-password ft-ttp" in told
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in output.iterdir()} == FILES
    assert stat.S_IMODE(output.stat().st_mode) == 0o700
    assert run(["config", "check", str(output / "flowtap.toml")]) == 0
    values = load(output / "flowtap.toml").values
    assert values.element.interfaces == ["eth0"]
    assert values.element.interface_names == {"ge-0/0/0": "eth0"}
    assert values.dtcp.ssh.connection_limit == values.dtcp.ssh.rate_limit == 5
    assert values.login.user["ft-ttp"].uid == 2200
    tunnel = values.tunnel["To-TTP-Company"]
    assert (tunnel.ike_version, tunnel.wanted_ike, tunnel.wanted_esp) == (
        1,
        ["3des-sha1-modp1024"],
        ["3des-sha1"],
    )
    assert (tunnel.ike_lifetime_s, tunnel.esp_lifetime_s) == (86_400, 3_600)
    assert values.control_source["ft-ttp"].tunnel == "To-TTP-Company"
    asyncssh.read_private_key(output / "host_key")
    # Secrets are in their own files, and nowhere else.
    for path in output.iterdir():
        assert ("a_password_here" in path.read_text()) == (path.name == "To-TTP-Company.psk")
        assert "password_for_ft-ttp" not in path.read_text()
    report = (output / "import-report.txt").read_text()
    assert report.count(": mapped -> ") == 27
    assert report.count(": ignored: ") == 18


@pytest.mark.asyncio
async def test_the_user_is_locked_until_a_password_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert import_how_to(tmp_path / "out") == 0
    path = tmp_path / "out" / "flowtap.toml"
    assert not await Logins(load(path)).check_password("ft-ttp", "password_for_ft-ttp")
    monkeypatch.setattr(sys, "stdin", io.StringIO("new password\n"))
    assert run(["config", "set-password", "ft-ttp", "--config", str(path)]) == 0
    assert await Logins(load(path)).check_password("ft-ttp", "new password")


def test_every_value_says_where_it_comes_from(tmp_path: Path) -> None:
    """The place in a comment is that of the word in the router's configuration."""
    assert import_how_to(tmp_path / "out") == 0
    lines = HOW_TO.read_text().splitlines()
    found = 0
    for line in (tmp_path / "out" / "flowtap.toml").read_text().splitlines():
        setting, _, comment = line.partition("  # ")
        place = comment.split(";")[0]
        if not place.replace(":", "").isdecimal():
            continue
        number, _, column = place.partition(":")
        value = setting.partition(" = ")[2].strip('[]"')
        word = lines[int(number) - 1][int(column) - 1 :]
        if value not in {"ft-ttp.hash", "To-TTP-Company.psk"}:
            assert word.startswith(value), line
            found += 1
    assert found >= 8


def test_without_an_interface_it_says_what_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(["config", "import-junos", str(HOW_TO), "--output", str(output)]) == 0
    assert "element.interfaces: nothing names the interfaces to tap" in capsys.readouterr().out
    assert run(["config", "check", str(output / "flowtap.toml")]) == 3
    assert "one source is right: interfaces" in capsys.readouterr().err


def test_what_cannot_be_mapped_is_told_as_far_as_anybody_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "router.conf"
    groups = "".join(f"filter f{number} {{ apply-groups g; }} " for number in range(250))
    file.write_text(f"{HOW_TO.read_text()} firewall {{ {groups} }}")
    assert import_how_to(tmp_path / "out", file=file) == 0
    told = capsys.readouterr().out
    assert told.count("groups are not expanded") == 200
    assert "and 50 more that could not be mapped" in told
    assert (tmp_path / "out" / "import-report.txt").read_text().count("groups are not expanded") == 250


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_how_to(tmp_path / "out", "--json") == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["form"] == "curly"
    assert report["counts"] == {"mapped": 27, "ignored": 18, "unmapped": 0}
    assert report["faults"] == []
    assert {
        "line": 3,
        "column": 117,
        "statement": "system login user ft-ttp uid 2200",
        "outcome": "mapped",
        "target": "login.user.ft-ttp.uid",
        "reason": None,
    } in report["statements"]


def test_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(HOW_TO.read_bytes())))
    assert import_how_to(tmp_path / "out", file=Path("-")) == 0
    assert capsys.readouterr().out.startswith("standard input: 45 statements")


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (("2.2.2.0/27 next-hop", "2.2.2.2.2 next-hop"), "9:70", "'2.2.2.2.2' is no prefix"),
        (("address 100.100.100.100/32", "address 2.2.2.0/33"), "8:307", "'2.2.2.0/33' is no address"),
        (("connection-limit 5", "connection-limit 500"), "3:254", "from 1 to 250"),
        (("uid 2200;", "uid 2200"), "3:128", "class stands behind the value of something else"),
        (("pic 3 {", "pic 3 "), "4:77", "closes no '{'"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(
    change: tuple[str, str], place: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "router.conf"
    file.write_text(HOW_TO.read_text().replace(*change, 1))
    assert import_how_to(tmp_path / "out", "--json", file=file) == 3
    out, err = capsys.readouterr()
    assert f"{file}:{place}: " in err
    assert words in err
    assert err.endswith("nothing was written\n")
    (fault,) = json.loads(out)["faults"]
    assert f"{fault['line']}:{fault['column']}" == place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["router.conf"]


def test_a_destination_in_clear_beside_a_tunnel_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "router.conf"
    text = (
        HOW_TO.read_text()
        .replace("services { flow-tap { interface sp-0/3/0.0; } }", "")
        .replace("mode main", "mode aggressive")
    )
    file.write_text(
        text
        + "services { dynamic-flow-capture { capture-group g { content-destination cd1 { address 192.0.2.9; } } } }"
    )
    assert import_how_to(tmp_path / "out", file=file) == 3
    told = capsys.readouterr().err
    assert "content_destination.cd1.address: lies behind no tunnel" in told
    assert "tunnel To-TTP-Company (line 10) could not be imported" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "interface", ["eth0", "=eth0", "ge-0/0/0=", "ge-0/0/0=an interface", "a b=eth0", "x=0123456789abcdef"]
)
def test_interfaces_that_are_none(interface: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "config",
        "import-junos",
        str(HOW_TO),
        "--output",
        str(tmp_path / "out"),
        "--interface",
        interface,
    ]
    assert run(words) == 2
    assert "NAME=eth0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_given_twice(tmp_path: Path) -> None:
    assert import_how_to(tmp_path / "out", "--interface", "ge-0/0/0=eth1") == 2


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_how_to(tmp_path / "out", file=tmp_path / "none") == 1
    assert "none: No such file" in capsys.readouterr().err


def test_a_folder_with_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "flowtap.db").write_text("the audit log")
    assert import_how_to(output) == 1
    assert "--replace" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["flowtap.db"]
    # What is replaced is kept: by now it may hold an audit log.
    assert import_how_to(output, "--replace") == 0
    assert {path.name for path in output.iterdir()} == set(FILES)
    assert (tmp_path / "out.1" / "flowtap.db").read_text() == "the audit log"
    assert import_how_to(output, "--replace") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.1", "out.2"]


def test_names_of_users_cannot_take_those_of_the_folder_s_own_files(tmp_path: Path) -> None:
    public = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    users = "".join(
        f'user {name} {{ class c; authentication {{ ssh-ed25519 "{public}"; }} }} '
        for name in ("host_key", "Host_Key", "md", "MD")
    )
    file = tmp_path / "router.conf"
    file.write_text(f"system {{ login {{ class c {{ permissions flow-tap-operation; }} {users} }} }}")
    output = tmp_path / "out"
    assert import_how_to(output, file=file) == 0
    names = [path.name.lower() for path in output.iterdir()]
    assert len(set(names)) == len(names)
    logins = load(output / "flowtap.toml").values.login.user
    for each in logins.values():
        assert each.authorized_keys_file is not None
        assert public in (output / each.authorized_keys_file).read_text()
    assert public not in (output / "host_key.pub").read_text()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert import_how_to(tmp_path / "out") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    assert import_how_to(tmp_path / "out", "--replace") == 1
    assert (tmp_path / "out").read_text() == "x"
    assert import_how_to(tmp_path / "none" / "out") == 1


@pytest.mark.parametrize("fails", ["write", "rename"])
def test_a_failure_leaves_nothing_half(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert import_how_to(output) == 0
    before = (output / "host_key").read_text()
    rename, written = Path.rename, 0

    def refuse_to_write(path: Path, flags: int, mode: int = 0o777) -> int:
        nonlocal written
        written += "flowtap-import" not in str(path)
        if written > 3:
            raise OSError(28, "No space left on device", str(path))
        return os.open(path, flags, mode)

    def refuse_to_move(path: Path, target: Path) -> Path:
        if path.name.startswith(".out."):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    if fails == "write":
        monkeypatch.setattr(folder, "_open_new", lambda path: refuse_to_write(path, folder.NEW_FILE, 0o600))
    else:
        monkeypatch.setattr(Path, "rename", refuse_to_move)
    assert import_how_to(output, "--replace") == 1
    reason = "No space left on device" if fails == "write" else "Input/output error"
    assert capsys.readouterr().err == f"flowtap: {output}: {reason}\nnothing was written\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert (output / "host_key").read_text() == before
