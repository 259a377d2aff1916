"""flowtap guard: what keeps content from leaving in clear, for the operator's hand and for the boot."""

from __future__ import annotations

from pathlib import Path

import click

from flowtap.cli.console import Exit, fail, print_json, say
from flowtap.config import load
from flowtap.delivery.guard import PREFERENCE, TABLE, GuardPlan, rules, ruleset
from flowtap.delivery.netfilter import Netfilter

__all__ = ["guard"]

_FILE = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("flowtap.toml"),
    show_default=True,
    help="The configuration whose tunnels are guarded.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.group()
def guard() -> None:
    """Let nothing leave in clear for what lies behind a tunnel, whether the tap and strongSwan run or not.

    The daemon installs the guard by itself, and leaves it behind when it ends.
    """


@guard.command()
@_FILE
def install(*, path: Path) -> None:
    """Put the guard of a configuration in place, instead of one that may be there."""
    plan = _plan(path)
    if found := Netfilter().install(plan):
        _report(found)
    tunnels = ", ".join(tunnel.name for tunnel in plan.tunnels)
    count = len(rules(plan))
    say(f"the guard is in place, for {count} networks behind {tunnels}; it stays until it is removed")


@guard.command()
@_FILE
@_JSON
def verify(*, path: Path, as_json: bool) -> int:
    """Say what is wrong with the guard, one fault a line; nothing and status 0 where it is sound."""
    found = Netfilter().verify(_plan(path))
    if as_json:
        print_json({"faults": found})
    elif found:
        print("\n".join(found))
    return Exit.FAILED if found else Exit.DONE


@guard.command()
@_FILE
@click.option("--yes", is_flag=True, help="You know what that means.")
def remove(*, path: Path, yes: bool) -> None:
    """Take the guard away, when a tap is decommissioned.

    From then on packets for the networks behind the configuration's tunnels leave in clear whenever
    strongSwan does not keep them. A daemon that runs shuts the gates of its tunnels when it notices, and puts
    the guard back: end it first.
    """
    plan = _plan(path)
    count = len(rules(plan))
    meaning = (
        f"nothing but strongSwan keeps packets for {count} networks behind tunnels from leaving in clear"
    )
    if not yes:
        fail(f"without the guard {meaning}; give --yes if that is wanted. Nothing was changed", Exit.USAGE)
    Netfilter().remove()
    say(f"the guard is gone: {meaning}")


@guard.command()
@_FILE
@_JSON
def show(*, path: Path, as_json: bool) -> None:
    """Print the guard of a configuration, as nftables and the routing policy are told; nothing is changed."""
    plan = _plan(path)
    if as_json:
        print_json(
            {"table": TABLE, "nftables": ruleset(plan), "unreachable": [str(each) for each in rules(plan)]}
        )
        return
    print(ruleset(plan), end="")
    for each in rules(plan):
        print(f"# ip -{each.version} rule add pref {PREFERENCE} to {each} unreachable")


def _plan(path: Path) -> GuardPlan:
    values = load(path).values
    if not values.tunnel:
        fail(f"{path}: there is no [tunnel.NAME], so there is nothing to guard", Exit.INVALID)
    return GuardPlan.of(values)


def _report(found: list[str]) -> None:
    lines = "\n".join(f"  {each}" for each in found)
    fail(f"the guard was installed and is not sound:\n{lines}")
