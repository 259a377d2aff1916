"""flowtap tunnel: what the operator's own people do to the tunnels of a running tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flowtap.cli.local import configuration_option, order, socket_of, socket_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["tunnel"]


@click.group()
def tunnel() -> None:
    """Take a tunnel down, bring it up, or give it new keys."""


@tunnel.command()
@click.argument("name")
@socket_option
@configuration_option
def up(*, name: str, path: Path, configuration: Path | None) -> None:
    """Bring a tunnel up that was taken down, or try at once."""
    order(socket_of(path, configuration), "tunnel", {"name": name, "do": "up"})
    print(f"{name}: is being brought up; `flowtap show tunnels` says how it is")


@tunnel.command()
@click.argument("name")
@socket_option
@configuration_option
def down(*, name: str, path: Path, configuration: Path | None) -> None:
    """Take a tunnel down and keep it so: copies wait, or are lost where they have no spool."""
    order(socket_of(path, configuration), "tunnel", {"name": name, "do": "down"})
    print(f"{name}: down until `flowtap tunnel up {name}`, or a restart")


@tunnel.command()
@click.argument("name")
@click.option("--ike", is_flag=True, help="Of the negotiation itself, not of what carries copies.")
@socket_option
@configuration_option
def rekey(*, name: str, path: Path, configuration: Path | None, ike: bool) -> None:
    """Change the keys of a tunnel now."""
    order(socket_of(path, configuration), "tunnel", {"name": name, "do": "rekey ike" if ike else "rekey"})
    print(f"{name}: new keys")
