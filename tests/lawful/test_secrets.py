"""Secrets are compared in constant time, and nothing that the tap ever says has one in it."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import hmac
import importlib
import json
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import argon2
import pytest
from daemon import ADD, FOR_EVER, KEY, OWN_KEY, V7, Tap, end, start, write_configuration

import flowtap
from flowtap.cli.local import ask
from flowtap.config import load
from flowtap.dtcp import Key, NoopRequest
from flowtap.dtcp import authentication as authentication_module
from flowtap.dtcp.authentication import authenticate, digest
from flowtap.dtcp.render import render_request
from flowtap.errors import FlowtapError
from flowtap.mediation import TaskingError
from flowtap.service import logins as logins_module
from flowtap.service.auditlog import read_audit_log
from flowtap.service.logins import Logins

PACKAGE = Path(flowtap.__file__).parent


# --- compared in constant time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [True, False])
def test_what_compares_digests_is_the_library_s_function_for_it(
    monkeypatch: pytest.MonkeyPatch, verdict: bool
) -> None:
    """Its verdict is the verdict, whatever the octets are: nothing else looks at them."""
    asked: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        asked.append((a, b))
        return verdict

    monkeypatch.setattr(hmac, "compare_digest", compare)
    right = digest(b"text", KEY)
    for given in (right, "0" * 40, "", right.upper()):
        assert authenticate(b"text", given, KEY) == verdict
    assert asked == [(right.encode(), each.encode()) for each in (right, "0" * 40, "", right)]


def test_nothing_else_compares_them() -> None:
    """In the module that knows digests and keys there is no other comparison."""
    source = Path(authentication_module.__file__).read_text()
    compared = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and not isinstance(node.ops[0], ast.Is | ast.IsNot)
        # A place in the message is compared with a number, which no digest is.
        and not (isinstance(node.comparators[0], ast.Constant) and type(node.comparators[0].value) is int)
    ]
    assert compared == []


def test_a_name_that_does_not_exist_costs_as_much_as_a_wrong_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_configuration(tmp_path, FOR_EVER)
    logins = Logins(load(tmp_path / "flowtap.toml"))
    verified: list[str] = []
    hasher = logins_module._HASHER

    class Counting:
        def verify(self, password_hash: str, password: str) -> bool:
            verified.append(password_hash)
            return hasher.verify(password_hash, password)

    monkeypatch.setattr(logins_module, "_HASHER", Counting())
    for name, password, is_right in (
        ("md", "right", True),
        ("md", "wrong", False),
        ("nobody", "right", False),
    ):
        assert asyncio.run(logins.check_password(name, password)) == is_right
    assert len(verified) == 3
    # With the same parameters, so that it takes the same time.
    assert len({str(argon2.extract_parameters(each)) for each in verified}) == 1


# --- never printed ---------------------------------------------------------------------------------------------------


def modules() -> Iterator[str]:
    for each in pkgutil.walk_packages([str(PACKAGE)], "flowtap."):
        if not each.name.endswith(("_flowtap", "__main__")):
            yield each.name


def test_no_value_shows_a_secret_that_it_holds() -> None:
    """Of all dataclasses of the package: a field for a secret takes no part in the representation."""
    found = set()
    for name in modules():
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                for field in dataclasses.fields(value):
                    is_secret = "password" in field.name or (value is Key and field.name == "octets")
                    if is_secret:
                        found.add(f"{value.__name__}.{field.name}")
                        assert not field.repr, f"{value.__qualname__}.{field.name}"
    assert found == {"Key.octets", "Login.password_hash", "_Target.password"}


def test_a_key_shows_nothing_in_whatever_way_it_is_printed() -> None:
    key = Key(b"top secret")
    said = [repr(key), str(key), f"{key}", f"{key!r:>80}", f"{[key]}", f"{({'k': key},)}"]
    assert not any("secret" in each for each in said)


# --- nothing that a daemon says --------------------------------------------------------------------------------------

PASSWORD = "a password that nobody else has"  # noqa: S105 - of this test's daemon


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    write_configuration(tmp_path, FOR_EVER, '[dtcp.udp]\nlisten = ["127.0.0.1:0"]')
    (tmp_path / "hash").write_text(logins_module.hash_password(PASSWORD))
    running = start(tmp_path)
    yield running
    end(running)


def secrets(directory: Path) -> dict[str, bytes]:
    private = (directory / "host_key").read_text().splitlines()
    return {
        "password": PASSWORD.encode(),
        "wrong password": b"a guess that is quite close",
        "key": OWN_KEY.octets,
        "hash": (directory / "hash").read_bytes().split(b"$")[-1],
        "host key": private[-2].encode(),
    }


@pytest.mark.interop
def test_nothing_that_a_daemon_says_has_a_secret_in_it(tap: Tap, tmp_path: Path) -> None:
    """Log, answers, refusals, what `show` tells, the audit log, errors of the configuration and of the client."""
    said: list[bytes] = []

    async def converse() -> None:
        async with tap.client("md2", OWN_KEY, PASSWORD) as md2:
            assert md2._writer is not None
            assert md2._reader is not None
            md2._writer.write(render_request(NoopRequest(V7, "md2", "1"), OWN_KEY))
            said.append(await md2._reader.read(65_536))
            said.append(repr(await md2.request_written(ADD.format(at=1, port=9), "2")).encode())
            said.append(repr(await md2.request_written("LIST DTCP/0.7\nFlags: Both", "3")).encode())
            said.append(repr(await md2.request_written("rubbish", "4")).encode())
        for user, password, key in (
            ("md2", "a guess that is quite close", OWN_KEY),
            ("nobody", PASSWORD, OWN_KEY),
            ("md2", PASSWORD, KEY),
        ):
            try:
                async with tap.client(user, key, password, timeout_s=1) as client:
                    await client.request(NoopRequest(V7, user, "1"))
                pytest.fail("was believed")
            except TaskingError as error:
                said.append(repr(error).encode() + str(error).encode())

    asyncio.run(converse())
    shows = ("status", "stats", "intercepts", "control-sources", "content-destinations", "sessions")
    said += [json.dumps(ask(tap.socket, what)).encode() for what in shows]
    # A configuration that names secrets that others can read, and one that cannot be read at all.
    good = (tmp_path / "flowtap.toml").read_text()
    (tmp_path / "own.key").chmod(0o644)
    tap.process.send_signal(signal.SIGHUP)
    tap.until("others can read it")
    (tmp_path / "own.key").chmod(0o600)
    (tmp_path / "flowtap.toml").write_text(
        good.replace('"own.key"', '"host_key"').replace('"host_key"', '"own.key"', 1)
    )
    for words in (["config", "check", str(tmp_path / "flowtap.toml")],):
        done = subprocess.run([sys.executable, "-m", "flowtap", *words], capture_output=True, check=False)
        said += [done.stdout, done.stderr]
    (tmp_path / "flowtap.toml").write_text(good)
    (tmp_path / "password").write_text(PASSWORD)
    hosts = ["--known-hosts", str(tmp_path / "known_hosts"), "--user", "md2"]
    for words in (
        ["--password-file", str(tmp_path / "password"), "noop"],
        ["--password-file", str(tmp_path / "password"), "--key-file", str(tmp_path / "own.key"), "list"],
        ["--password-file", str(tmp_path / "nothing"), "noop"],
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "flowtap",
                "dtcp",
                "--ssh",
                f"127.0.0.1:{tap.port}",
                *hosts,
                "--timeout-s",
                "1",
                *words,
            ],
            capture_output=True,
            check=False,
        )
        said += [done.stdout, done.stderr]
    tap.process.send_signal(signal.SIGUSR1)
    tap.until("frames, ")
    said.append(Path(f"/proc/{tap.process.pid}/cmdline").read_bytes())
    said.append(Path(f"/proc/{tap.process.pid}/environ").read_bytes())
    said += [row.text.encode() for row in read_audit_log(tmp_path / "flowtap.db")]
    said.append(tap.log.encode())
    everything = b"\n".join(said)
    assert len(everything) > 5_000
    for name, secret in secrets(tmp_path).items():
        assert secret not in everything, name


def test_errors_of_the_configuration_show_no_secret(tmp_path: Path) -> None:
    """A file that should hold one thing and holds another: its content stays its own."""
    write_configuration(tmp_path, FOR_EVER)
    text = (tmp_path / "flowtap.toml").read_text()
    for before, after in (
        ('password_hash_file = "hash"', 'password_hash_file = "own.key"'),
        ('authorized_keys_file = "id.pub"', 'authorized_keys_file = "own.key"'),
    ):
        path = tmp_path / "wrong.toml"
        path.write_text(text.replace(before, after))
        with pytest.raises(FlowtapError) as caught:
            Logins(load(path))
        assert OWN_KEY.octets.decode() not in str(caught.value)
        assert caught.value.__cause__ is None
