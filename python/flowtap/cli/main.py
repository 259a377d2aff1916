"""The program: finds the command, and turns every error into one line and a status."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from flowtap.cli.console import CommandError, Exit
from flowtap.errors import (
    CaptureError,
    ConfigurationError,
    CriteriaError,
    FlowtapError,
    PermissionMissingError,
)

__all__ = ["flowtap", "main"]

# Imported when they are asked for: the daemon's libraries are of no use to a replay.
COMMANDS = {
    "approve": ("act", "Let criteria begin that wait for approval."),
    "audit": ("audit", "Prove that the audit log is whole, and hand it out."),
    "bench": ("bench", "How fast this machine is."),
    "capture": ("capture", "Match interfaces against criteria, or capture everything."),
    "clear": ("act", "End criteria, or forget sequence numbers, for the operator."),
    "config": ("config", "Check a configuration, set a password."),
    "demo": ("demo", "The whole system on recorded packets, on this machine."),
    "doctor": ("doctor", "What is wrong with a configuration on this host, and what to do."),
    "dtcp": ("dtcp", "Task a tap as a mediation device does."),
    "explain": ("explain", "What is in every frame, and what the criteria say to it."),
    "guard": ("guard", "Let nothing leave in clear for what lies behind a tunnel."),
    "mediate": ("mediate", "Receive copies and keep them."),
    "ping": ("ping", "Whether the other end of a tunnel answers, through the tunnel."),
    "reject": ("act", "End criteria that wait for approval."),
    "replay": ("replay", "Match captures against criteria, once."),
    "run": ("run", "The daemon: a tap that is tasked over SSH."),
    "tunnel": ("tunnel", "Take a tunnel down, bring it up, or give it new keys."),
    "show": ("show", "What a running tap does."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"flowtap.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flowtap")
def flowtap() -> None:
    """FlowTap for Linux: a lawful-intercept packet tap in software.

    Only for interception that the law of the place allows and somebody entitled has ordered.
    """


def _status(error: FlowtapError) -> Exit:
    from flowtap.dtcp import CriteriaFileError  # noqa: PLC0415 - only when something went wrong

    if isinstance(error, CriteriaError | CriteriaFileError | ConfigurationError):
        return Exit.INVALID
    if isinstance(error, PermissionMissingError):
        return Exit.RIGHT_MISSING
    if isinstance(error, CaptureError):
        return Exit.FAILED
    return Exit.FAILED


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Without the program's name; those of the process where None.

    Returns:
        The exit status.
    """
    try:
        outcome: Any = flowtap.main(args=arguments, prog_name="flowtap", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except click.exceptions.Abort:
        return 128 + 2
    except CommandError as error:
        return _end(str(error), error.status)
    except FlowtapError as error:
        return _end(str(error), _status(error))
    except BrokenPipeError:
        # Whoever read our output has enough of it; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        return _end(f"{error.filename or 'input or output'}: {error.strerror}", Exit.FAILED)
    return outcome if isinstance(outcome, int) else Exit.DONE


def _end(message: str, status: Exit) -> int:
    print(f"flowtap: {message}", file=sys.stderr)
    return status
