"""User certificates, as OpenSSH's own tools make them and its client shows them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import FOR_EVER, KEY, Tap, end, start, write_configuration

from flowtap.dtcp.render import sign

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed"),
]

NOOP = sign("NOOP DTCP/0.7\r\nCsource-ID: md\r\nSeq: 1\r\n", KEY)


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def certify(directory: Path, *options: str, authority: str = "authority") -> None:
    """Makes ``id-cert.pub``, which the client shows beside its key."""
    words = ["ssh-keygen", "-q", "-s", str(directory / authority), "-I", "a test", *options]
    subprocess.run([*words, str(directory / "id.pub")], check=True, capture_output=True)


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    write_configuration(tmp_path, FOR_EVER)
    for name in ("authority", "another"):
        make_key(tmp_path / name)
    public = (tmp_path / "authority.pub").read_text()
    # The client's key itself may not log in, nor may anybody with a password.
    (tmp_path / "authorized").write_text(f'cert-authority,principals="md" {public}')
    path = tmp_path / "flowtap.toml"
    mine = '[login.user.md]\nclass = "tasker"\npassword_hash_file = "hash"\nauthorized_keys_file = "id.pub"\n'
    text = path.read_text()
    assert mine in text
    path.write_text(
        text.replace(mine, '[login.user.md]\nclass = "tasker"\nauthorized_keys_file = "authorized"\n')
    )
    running = start(tmp_path)
    yield running
    end(running)


def test_a_certificate_of_the_authority_logs_in(tap: Tap, tmp_path: Path) -> None:
    certify(tmp_path, "-n", "md", "-V", "-5m:+5m")
    done = tap.openssh("-s", "flow-tap-dtcp", data=NOOP)
    assert done.stdout.startswith(b"DTCP/0.7 200 OK\r\nSEQ: 1\r\n"), done.stderr
    assert "login md from 127.0.0.1" in tap.log


@pytest.mark.parametrize(
    ("options", "authority"),
    [
        (("-n", "md", "-V", "-2h:-1h"), "authority"),
        (("-n", "md", "-V", "+1h:+2h"), "authority"),
        (("-n", "md2", "-V", "-5m:+5m"), "authority"),
        (("-V", "-5m:+5m"), "authority"),
        (("-n", "md", "-V", "-5m:+5m"), "another"),
        (("-n", "md", "-h", "-V", "-5m:+5m"), "authority"),
        (("-n", "md", "-O", "source-address=192.0.2.0/24", "-V", "-5m:+5m"), "authority"),
    ],
    ids=[
        "ran out",
        "not begun",
        "of another login",
        "of no login",
        "of another authority",
        "of a host",
        "from elsewhere",
    ],
)
def test_what_is_refused(tap: Tap, tmp_path: Path, options: tuple[str, ...], authority: str) -> None:
    certify(tmp_path, *options, authority=authority)
    done = tap.openssh("-s", "flow-tap-dtcp", data=NOOP)
    assert done.returncode != 0
    assert done.stdout == b""
    assert b"Permission denied" in done.stderr
    assert "login md from" not in tap.log


def test_without_a_certificate_the_key_is_nobody_s(tap: Tap, tmp_path: Path) -> None:
    done = tap.openssh("-s", "flow-tap-dtcp", data=NOOP)
    assert b"Permission denied" in done.stderr
    # Nor does the authority's own key log in.
    for suffix in ("", ".pub"):
        shutil.copy(tmp_path / f"authority{suffix}", tmp_path / f"id{suffix}")
    done = tap.openssh("-s", "flow-tap-dtcp", data=NOOP)
    assert b"Permission denied" in done.stderr
    assert "login md from" not in tap.log


def test_a_certificate_opens_no_other_login(tap: Tap, tmp_path: Path) -> None:
    certify(tmp_path, "-n", "md,md2", "-V", "-5m:+5m")
    done = tap.openssh("-s", "flow-tap-dtcp", data=NOOP, user="md2")
    assert b"Permission denied" in done.stderr
