"""What a check has found, and what could not be found out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Unknown", "Verdict", "fail", "ok", "unknown", "warn"]


class Verdict(StrEnum):
    """How a check has ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """It could not be made; never said of something that was looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What it is about, in a word or two.
        verdict: How it is.
        what: What was seen, where.
        advice: What to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    what: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands in place of something that could not be read.

    Attributes:
        why: Why it could not.
        advice: What would make it readable.
    """

    why: str
    advice: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, what)


def warn(check: str, what: str, advice: str) -> Finding:
    """It works, but not as one might think."""
    return Finding(check, Verdict.WARN, what, advice)


def fail(check: str, what: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Verdict.FAIL, what, advice)


def unknown(check: str, reason: Unknown, about: str = "") -> Finding:
    """It could not be found out."""
    what = f"{about}: {reason.why}" if about else reason.why
    return Finding(check, Verdict.UNKNOWN, what, reason.advice)
