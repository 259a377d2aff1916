"""Who is tapped, and what he says, stands in no ordinary log and in no error's text."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import OWN_KEY, Tap, end, running, start
from hypothesis import given
from hypothesis import strategies as st
from scene import PLACES

from flowtap import Criteria, CriteriaError, FilterTable
from flowtap import Tap as DataPlaneTap
from flowtap.cli.local import ask
from flowtap.control import FilterFault
from flowtap.dtcp import CriteriaFileError, FilterText, Scope, parse_criteria_file
from flowtap.service.auditlog import read_audit_log
from flowtap.service.filters import FilterReader

CAPTURES = Path(__file__).parents[1] / "captures"
SUBJECTS = ("192.0.2.10", "198.51.100.233", "198.51.100.234", "2001:db8:5::77", "2001:db8:5::78")
LISTS = (
    "{v4}/33",
    "{v4}-198.51.100.1",
    "{v4}.7",
    "{v4},{v4},,",
    "{v4},!{v4}",
    "{v4}-{v6}",
    "{v6}/129",
    "{v6}::",
    "{v6}-2001:db8::1",
    "!!{v4}",
    "{v4} ",
    "{v4},here",
    "{v4}/x",
)
WRONG = [each.format(v4="198.51.100.233", v6="2001:db8:5::77") for each in LISTS]


def names_somebody(text: str) -> list[str]:
    return [each for each in SUBJECTS if each in text]


@pytest.mark.parametrize("value", WRONG)
def test_an_error_of_a_filter_names_nobody(value: str) -> None:
    """In its text; who may see the value has it beside the text."""
    for fields in ({"source": value}, {"destination": value}):
        with pytest.raises(CriteriaError) as caught:
            Criteria(1, **fields)  # type: ignore[arg-type]  # as the table has them
        assert names_somebody(str(caught.value)) == []
        assert names_somebody(repr(caught.value)) == []
        assert caught.value.value == value
        with pytest.raises(FilterFault) as fault:
            FilterReader(PLACES)(FilterText(**fields), Scope())
        assert names_somebody(str(fault.value) + fault.value.info) == []
        assert fault.value.__cause__ is None


@given(
    st.lists(
        st.sampled_from(
            [
                "198.51.100.233",
                "2001:db8:5::77",
                "198.51.100.233/33",
                "-",
                ",",
                "!",
                "*",
                "/",
                "x",
                " ",
                "",
                "2001:db8:5::78",
            ]
        ),
        max_size=8,
    ).map("".join)
)
def test_whatever_a_list_says_its_error_names_nobody(value: str) -> None:
    try:
        Criteria(1, source=value)
    except CriteriaError as error:
        assert names_somebody(f"{error} {error!r}") == []


@pytest.mark.parametrize("value", WRONG)
def test_an_error_of_a_criteria_file_names_the_line_and_nobody(tmp_path: Path, value: str) -> None:
    path = tmp_path / "criteria.txt"
    path.write_text(f"ADD DTCP/0.7\nSource-Address: 198.51.100.234\n\nADD DTCP/0.7\nDest-Address: {value}\n")
    words = ["replay", str(CAPTURES / "plain.pcap"), "--criteria", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "flowtap", *words], capture_output=True, text=True, check=False
    )
    if not value.endswith(" "):
        assert done.returncode == 3
        assert "line 5" in done.stderr
    assert names_somebody(done.stdout + done.stderr) == []


def test_a_line_of_a_criteria_file_that_cannot_be_read_is_not_repeated() -> None:
    for text in (
        "198.51.100.233",
        "ADD DTCP/0.7\n198.51.100.233\n",
        "ADD DTCP/0.7\nSource-Addres: 198.51.100.233",
    ):
        with pytest.raises(CriteriaFileError) as caught:
            parse_criteria_file(text, "f")
        assert names_somebody(str(caught.value)) == []


def test_nothing_that_holds_criteria_shows_them() -> None:
    criteria = Criteria(1, source="198.51.100.233", destination="2001:db8:5::77,192.0.2.10")
    table = FilterTable.compile([criteria])
    tap = DataPlaneTap.from_pcap(str(CAPTURES / "plain.pcap"), table)
    with tap:
        said = " ".join(map(repr, (criteria, table, tap, *tap, tap.stats(), *tap.stats().criteria)))
    assert names_somebody(said) == []


# --- everything that a daemon says ------------------------------------------------------------------------------------

PAYLOAD = (b"User-Agent", b"GET /", b"HTTP/1.", b"index.html")
ADD = (
    "ADD DTCP/0.7\nCdest-ID: {cdest}\n{filter}\nX-JTap-Cdest-Dest-Address: 127.0.0.1\nX-JTap-Cdest-Dest-Port: 9\n"
    "X-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40041\n{end}"
)
EXTRA = """
[policy]
duplicates_dropped_period_s = 1
[content_destination.narrow]
address = "127.0.0.1"
port = 9
source_address = "127.0.0.1"
hard_limit_target_bps = 1
hard_limit_bps = 2
[dtcp.udp]
listen = ["127.0.0.1:0"]
"""


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    files = ", ".join(f'"{CAPTURES / name}"' for name in ("plain.pcap", "http.pcap"))
    with running(tmp_path, f"files = [{files}]\npace = 300\nloop = true", EXTRA) as tap:
        yield tap


def requests() -> list[str]:
    """What brings a daemon to say something: what is right, what is wrong, what ends in every way."""
    right = [
        ADD.format(cdest="cd1", filter=f"Source-Address: {subject}", end=end)
        for subject in SUBJECTS
        for end in ("Flags: STATIC", "Timeout-Packets: 1\nFlags: SendAsync", "Timeout-Total: 1")
    ]
    wrong = [ADD.format(cdest="cd1", filter=f"Dest-Address: {value}", end="Flags: STATIC") for value in WRONG]
    broken = [each.replace("Dest-Address: ", "Dest-Addresses: ") for each in wrong[:3]]
    broken += ["198.51.100.233 DTCP/0.7", "ADD DTCP/198.51.100.233", "ADD DTCP/0.7\n198.51.100.233"]
    lost = ADD.format(cdest="lost", filter="Source-Address: 192.0.2.10", end="Flags: STATIC")
    return [
        *right,
        *wrong,
        *broken,
        lost.replace("Dest-Address: 127.0.0.1", "Dest-Address: 255.255.255.255"),
        "ADD DTCP/0.7\nCdest-ID: narrow\nSource-Address: 192.0.2.10\nFlags: STATIC",
        "LIST DTCP/0.7\nFlags: Both",
        "REFRESH DTCP/0.7\nCriteria-ID: 1-9\nTimeout-Idle: 5",
        "DELETE DTCP/0.7\nCriteria-ID: 1,4000",
        "DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: STATIC",
    ]


@pytest.mark.interop
def test_nobody_is_named_in_the_log_of_a_daemon(tap: Tap, tmp_path: Path) -> None:
    """Tasked rightly and wrongly, timed out, purged, losing copies, reloaded, killed and begun again."""

    async def task() -> list[int]:
        async with tap.client("md2", OWN_KEY, timeout_s=20) as client:
            return [
                (await client.request_written(text, str(seq))).code for seq, text in enumerate(requests())
            ]

    codes = asyncio.run(task())
    assert {200, 400, 431, 432} <= set(codes)
    tap.until("ended: packets")
    tap.until("ended: total")
    tap.until("ended: congestion of narrow")
    tap.until("Duplicate Packets Dropped")
    said = json.dumps(
        [ask(tap.socket, what) for what in ("intercepts", "stats", "control-sources", "content-destinations")]
    )
    tap.reload("[policy]\n", '[policy]\nexcluded_prefixes = ["198.51.100.233/32", "2001:db8:5::/64"]\n')
    tap.reload("[policy]\n", "[policy]\nnarrowest_prefix_v4 = 32\n")
    tap.process.send_signal(signal.SIGKILL)
    tap.process.wait()
    again = start(tap.directory)
    try:
        assert "Server Restart" in again.log
        assert names_somebody(again.log) == []
        assert names_somebody(said) == []
        for payload in PAYLOAD:
            assert payload.decode() not in again.log
            # Not in the record for the court either: that says what was done, not what was heard.
            assert not any(payload.decode() in row.text for row in read_audit_log(tmp_path / "flowtap.db"))
        assert ask(again.socket, "stats")["matched"] >= 0
    finally:
        end(again)
    tap.process = again.process
    # The record for the court does name them.
    assert any(names_somebody(row.text) for row in read_audit_log(tmp_path / "flowtap.db"))
