"""flowtap config: look at a configuration before it is used."""

from __future__ import annotations

from pathlib import Path

import click

from flowtap.config import load
from flowtap.service.daemon import check as check_files

__all__ = ["config"]


@click.group()
def config() -> None:
    """Check a configuration."""


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
