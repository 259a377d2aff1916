"""flowtap config: look at a configuration before it is used."""

from __future__ import annotations

import os
import re
import sys
from importlib import resources
from pathlib import Path

import click

from flowtap.cli.console import Exit, fail, open_private
from flowtap.cli.import_junos import import_junos
from flowtap.config import load
from flowtap.delivery.retransmission import strongswan_settings
from flowtap.service.daemon import check as check_files
from flowtap.service.logins import hash_password

__all__ = ["config"]


@click.group()
def config() -> None:
    """Check a configuration, set a password, import a router's, write what systemd and strongSwan need."""


config.add_command(import_junos)


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(*, file: Path) -> None:
    """Check a configuration file and the files that it names; every wrong key is listed."""
    configuration = load(file)
    check_files(configuration)
    values = configuration.values
    print(
        f"{file}: valid: {len(values.login.user)} logins, {len(values.control_source)} control sources,"
        f" {len(values.content_destination)} content destinations"
    )


@config.command(name="set-password")
@click.argument("user")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), default=Path("flowtap.toml"), show_default=True
)
def set_password(*, user: str, path: Path) -> None:
    """Write the hash of a new password of USER into the file that the configuration names.

    The password is asked for, or read as one line where standard input is no terminal.
    """
    configuration = load(path)
    login = configuration.values.login.user.get(user)
    if login is None:
        fail(f"{path}: there is no [login.user.{user}]", Exit.INVALID)
    if login.password_hash_file is None:
        fail(f"{path}: login.user.{user} has no password_hash_file", Exit.INVALID)
    password = _password()
    if not password:
        fail("an empty password is none; nothing was changed", Exit.USAGE)
    target = configuration.locate(login.password_hash_file)
    # Written beside it and moved, so that the tap never reads half of it. The folder may be that of the tap's
    # user, who must not be able to have root write elsewhere, and has to read what root has written.
    beside = target.with_name(f"{target.name}.new")
    owner = (target if os.path.lexists(target) else target.parent).lstat()
    beside.unlink(missing_ok=True)
    with open_private(beside) as writing:
        if os.geteuid() == 0:
            os.fchown(writing.fileno(), owner.st_uid, owner.st_gid)
        writing.write(hash_password(password) + "\n")
    beside.replace(target)
    print(f"{target}: password of {user} set; the tap takes it over with HUP")


_CONFIG = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/etc/flowtap/flowtap.toml"),
    show_default=True,
)


@config.command(name="systemd-unit")
@_CONFIG
def systemd_unit(*, path: Path) -> None:
    """Print a unit that runs this very program under systemd, with no more rights than it needs.

    As /etc/systemd/system/flowtap.service; its first lines say what else it wants.
    """
    print(_unit("flowtap.service", path), end="")


@config.command(name="guard-unit")
@_CONFIG
def guard_unit(*, path: Path) -> None:
    """Print a unit that puts the guard of tunnels in place at boot, before the network is there.

    As /etc/systemd/system/flowtap-guard.service; then `systemctl enable flowtap-guard`.
    """
    print(_unit("flowtap-guard.service", path), end="")


@config.command()
@_CONFIG
@click.option("--group", default="flowtap", show_default=True, help="The tap's group.")
def strongswan(*, path: Path, group: str) -> None:
    """Print settings for strongSwan with which it notices a dead peer as soon as the configuration says."""
    configuration = load(path)
    tunnels = configuration.values.tunnel.values()
    if not tunnels:
        fail(f"{path}: there is no [tunnel.NAME], so strongSwan is not needed", Exit.INVALID)
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*", group):
        fail(f"--group {group}: the name of a group is right", Exit.USAGE)
    placed = [(str(configuration.locate(each.vici_socket).absolute()), each) for each in tunnels]
    print(strongswan_settings(placed, group), end="")


def _unit(name: str, path: Path) -> str:
    """A unit that runs this very program."""
    program = Path(sys.argv[0]).absolute()
    if not os.access(program, os.X_OK):
        fail(f"{program}: is no program that systemd could start; run flowtap by its path", Exit.USAGE)
    text = (resources.files("flowtap.service") / name).read_text()
    is_at_home = any(program.is_relative_to(place) for place in ("/home", "/root", "/run/user"))
    for place, value in (
        ("@PROGRAM@", str(program)),
        ("@CONFIG@", str(path.absolute())),
        # A program in somebody's home directory must be read there.
        ("@HOME@", "read-only" if is_at_home else "yes"),
    ):
        if any(letter.isspace() or letter in "\"'\\%$" for letter in value):
            fail(f"{value}: has a letter that has a meaning in a unit; move it", Exit.USAGE)
        text = text.replace(place, value)
    return text


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password: str = click.prompt("password", hide_input=True, confirmation_prompt=True)
    return password
