"""flowtap doctor: what is wrong with a configuration on this host, and what to do about it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowtap.cli.console import CommandError, Exit, print_json
from flowtap.cli.local import ask
from flowtap.config import load
from flowtap.diagnosis.examine import Answers, examine, examine_host, openings_before
from flowtap.diagnosis.finding import Finding, Unknown, Verdict, fail, ok
from flowtap.errors import ConfigurationError
from flowtap.service.daemon import check as check_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap.config import LoadedConfiguration

__all__ = ["doctor"]

_SETTINGS = "/etc/strongswan.conf"


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="flowtap.toml")
@click.option(
    "--strongswan-conf",
    "settings",
    type=click.Path(path_type=Path),
    help=f"strongSwan's settings; those that STRONGSWAN_CONF names, else {_SETTINGS}.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def doctor(*, path: Path, settings: Path | None, as_json: bool) -> int:
    """Check a configuration, this host, strongSwan and the running tap; say what to do.

    It changes nothing, and sees most as root. What could not be looked at is said to be unknown.
    """
    settings = settings or Path(os.environ.get("STRONGSWAN_CONF", _SETTINGS))
    try:
        configuration = load(path)
    except ConfigurationError as error:
        findings = [fail("configuration", str(error), "correct it, and look again"), *examine_host()]
        let_in = []
    else:
        answers = _answers(configuration)
        findings = [_content(configuration), *examine(configuration, answers, settings)]
        let_in = list(map(str, openings_before(configuration)))
    counts = Counter(each.verdict for each in findings)
    if as_json:
        print_json(
            {
                "findings": [asdict(each) for each in findings],
                "counts": {verdict.value: counts[verdict] for verdict in Verdict},
                "let_in": let_in,
            }
        )
    else:
        _print(findings)
        print(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict))
        if let_in:
            print(f"firewalls before this host must let in: {', '.join(let_in)}")
    return Exit.FAILED if counts[Verdict.FAIL] else Exit.DONE


def _content(configuration: LoadedConfiguration) -> Finding:
    try:
        check_files(configuration)
    except ConfigurationError as error:
        return fail("configuration", str(error), "correct it, and look again")
    return ok("configuration", f"{configuration.path}: is valid")


def _answers(configuration: LoadedConfiguration) -> Answers:
    socket = configuration.locate(configuration.values.show.socket)
    status = _asked(socket, "status")
    if isinstance(status, Unknown):
        return Answers(status, Unknown("the tap does not run, or may not be asked"))
    associations = _asked(socket, "security-associations")
    if isinstance(associations, Unknown):
        return Answers(status, associations)
    return Answers(status, {each["name"]: each for each in associations["tunnels"]})


def _asked(socket: Path, what: str) -> dict[str, Any] | Unknown:
    try:
        return ask(socket, what)
    except CommandError as error:
        return Unknown(str(error))


def _print(findings: Sequence[Finding]) -> None:
    verdicts = max(len(verdict) for verdict in Verdict)
    checks = max(len(each.check) for each in findings)
    indent = " " * (verdicts + 2)
    for each in findings:
        what = each.what.replace("\n", f"\n{indent}")
        print(f"{each.verdict:<{verdicts}}  {each.check:<{checks}}  {what}")
        if each.advice and each.verdict is not Verdict.OK:
            print(f"{indent}-> {each.advice}")
