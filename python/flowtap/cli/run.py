"""flowtap run: the daemon."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from flowtap.cli.console import say
from flowtap.service.daemon import serve

__all__ = ["run"]


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="flowtap.toml")
@click.option("--quiet", is_flag=True, help="Only warnings.")
def run(*, path: Path, quiet: bool) -> None:
    """Tap what the configuration names, and be tasked over SSH, until INT or TERM."""
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    # The transport's own messages are about everybody who knocks.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    stats = serve(path)
    if not quiet:
        say(
            f"{stats.frames:,} frames captured, {stats.undecodable:,} undecodable, {stats.own:,} own,"
            f" {stats.matched:,} matched, {stats.copied:,} copied, {stats.exported:,} exported,"
            f" {stats.dropped:,} dropped"
        )
