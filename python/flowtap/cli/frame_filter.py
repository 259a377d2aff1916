"""tcpdump's words as a frame filter: compiled by libpcap in a child process, run by our own interpreter.

libpcap's optimiser can take minutes for long expressions, and a crash in it must not end the tap.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from flowtap import BpfProgram
from flowtap.cli.console import Exit, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap import LinkType

__all__ = ["compile_words"]

COMPILE_TIMEOUT_S = 30
LINKTYPE_RAW = 101
"""Raw IP in capture files, which libpcap knows by another number than its own, alone of those read here."""
DLT_RAW = 12

_CHILD = """
import json, sys
try:
    import pcapy
    request = json.load(sys.stdin)
    program = pcapy.compile(request["link_type"], 262144, request["words"], 1, 0xFFFFFFFF)
    json.dump({"program": [list(instruction) for instruction in program.get_bpf()]}, sys.stdout)
except Exception as error:
    json.dump({"error": str(error)}, sys.stdout)
"""


def compile_words(words: Sequence[str], link_type: LinkType) -> BpfProgram:
    """Compiles a filter expression for one link type.

    Raises:
        CommandError: It is no expression, or compiling takes too long.
    """
    expression = " ".join(words)
    number = DLT_RAW if link_type.number == LINKTYPE_RAW else link_type.number
    request = json.dumps({"link_type": number, "words": expression})
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and our own text
            [sys.executable, "-P", "-c", _CHILD],
            input=request,
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        fail(
            f"filter {expression!r}: libpcap did not finish within {COMPILE_TIMEOUT_S} s;"
            " many hosts belong into a criteria file",
            Exit.USAGE,
        )
    try:
        answer = json.loads(child.stdout)
    except json.JSONDecodeError:
        fail(f"filter {expression!r}: libpcap ended with status {child.returncode}", Exit.FAILED)
    if "error" in answer:
        fail(
            f"filter {expression!r}: {answer['error']}; tcpdump's filter language is right here",
            Exit.USAGE,
        )
    return BpfProgram([tuple(instruction) for instruction in answer["program"]])
