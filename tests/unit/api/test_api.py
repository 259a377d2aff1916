"""The embedding interface: engines, taps, batches, and what must not be done with them."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pcapy
import pytest

import flowtap
from flowtap import (
    CaptureError,
    ContentDestination,
    Criteria,
    DataPlaneError,
    Engine,
    FilterTable,
    LinkType,
    Replay,
    Tap,
)
from flowtap.adapters import pcapy as adapter

CAPTURES = Path(__file__).parents[2] / "captures"
PLAIN = str(CAPTURES / "plain.pcap")
DESTINATIONS = {"cd1": ContentDestination(address="198.51.100.7", port=30000, source_address="198.51.100.1")}


def table(*deliver_to: str, **fields: str | int) -> FilterTable:
    fields = fields or {"source": "192.0.2.10"}
    return FilterTable.compile([Criteria(1, deliver_to=deliver_to, **fields)], DESTINATIONS)  # type: ignore[arg-type]  # as the tests give them


def frames(path: str = PLAIN) -> list[bytes]:
    reader = pcapy.open_offline(path)
    found: list[bytes] = []
    while (pair := reader.next())[0] is not None:
        found.append(pair[1])
    return found


def test_one_by_one_and_in_batches_is_the_same() -> None:
    single = Engine(table("cd1"), LinkType.ETHERNET)
    one_by_one = [bytes(copy) for frame in frames() for copy in single.feed(frame)]
    batched = Engine(table("cd1"), LinkType.ETHERNET)
    together = [
        bytes(copy)
        for packets, records in adapter.batches(pcapy.open_offline(PLAIN), packets=50)
        for copy in batched.feed_batch(packets, records)
    ]
    through_adapter = [
        bytes(copy) for batch in adapter.copies(pcapy.open_offline(PLAIN), table("cd1")) for copy in batch
    ]
    assert one_by_one == together == through_adapter
    assert len(one_by_one) > 40
    assert single.stats().matched == batched.stats().matched == 45


def test_a_tap_over_a_capture() -> None:
    with Tap.from_pcap(PLAIN, table("cd1"), batch_frames=10) as tap:
        batches = list(tap)
        stats = tap.stats()
    copies = [copy for batch in batches for copy in batch]
    assert len(batches) > 5
    assert stats.matched == 45
    assert stats.criteria[0].copies == stats.destinations[0].copied == stats.copied == 45
    assert {copy.destination_id for copy in copies} == {"cd1"}
    assert all(copy.criteria_id == 1 and copy.timestamp_ns > 10**18 for copy in copies)
    assert tap.stop().frames == 141
    assert list(tap) == []


def test_batches_are_views_of_one_arena() -> None:
    (batch,) = Tap.from_pcap(PLAIN, table("cd1"))
    view = memoryview(batch)
    assert view.readonly
    assert bytes(view) == b"".join(bytes(copy) for copy in batch)
    assert batch[-1].original_length_octets > 0
    assert len(batch[0]) == len(bytes(batch[0])) == len(memoryview(batch[0]))
    with pytest.raises(IndexError):
        batch[len(batch)]
    with pytest.raises(TypeError):
        view[0] = 1
    del batch
    assert view[0] == 0x45


def test_what_is_printed_tells_nobody_s_address() -> None:
    criteria = Criteria(1, source="192.0.2.10")
    (batch,) = Tap.from_pcap(PLAIN, table("cd1"))
    for value in (criteria, table(), batch, batch[0], Engine(table()).stats()):
        assert "192.0.2.10" not in repr(value)


def test_records_that_lie_are_refused() -> None:
    engine = Engine(table())
    for records in (b"x", struct.pack("=4I", 0, 0, 0, 11), struct.pack("=4I", 0, 0, 2**32 - 1, 2**32 - 1)):
        with pytest.raises(ValueError, match="records"):
            engine.feed_batch(b"0123456789", records)
    assert len(engine.feed_batch(b"", b"")) == 0


def test_a_refused_batch_leaves_no_trace_in_the_account() -> None:
    engine = Engine(table("cd1"))
    frame = next(frame for frame in frames() if frame[26:30] == bytes([192, 0, 2, 10]))
    good = struct.pack("=4I", 1, 0, 0, len(frame))
    with pytest.raises(ValueError, match=r"records\[3\]"):
        engine.feed_batch(frame, good * 3 + struct.pack("=4I", 1, 0, 1, len(frame)))
    # Copies that nobody was given are not counted as made.
    assert (engine.stats().frames, engine.stats().copied) == (0, 0)
    assert len(engine.feed_batch(frame, good * 3)) == engine.stats().copied == 3


def test_buffers_of_every_kind() -> None:
    frame = next(frame for frame in frames() if frame[26:30] == bytes([192, 0, 2, 10]))
    for buffer in (frame, bytearray(frame), memoryview(frame)):
        assert len(Engine(table()).feed(buffer)) == 1
    with pytest.raises((TypeError, BufferError)):
        Engine(table()).feed("text")  # type: ignore[arg-type]


def test_a_damaged_capture_gives_what_came_before(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(Path(PLAIN).read_bytes()[:5000])
    tap = Tap.from_pcap(str(cut), table("cd1"))
    assert len(next(tap)) > 0
    with pytest.raises(CaptureError) as caught:
        next(tap)
    assert caught.value.path == str(cut)
    assert 0 < (caught.value.offset_octets or 0) <= 5000
    with pytest.raises(CaptureError):
        Tap.from_pcap("/nowhere", table())


def test_tables_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="given twice"):
        FilterTable.compile([Criteria(1), Criteria(1)])
    with pytest.raises(ValueError, match="deliver_to"):
        FilterTable.compile([Criteria(1, deliver_to=["nowhere"])])
    with pytest.raises(ValueError, match="one family"):
        ContentDestination("192.0.2.1", 1, "2001:db8::1")
    with pytest.raises(ValueError, match="oversize"):
        ContentDestination("192.0.2.1", 1, "192.0.2.2", oversize="cut")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not an IPv4"):
        ContentDestination("here", 1, "192.0.2.2")


def test_a_playing_tap_is_changed_in_one_step() -> None:
    tap = Tap.replay([PLAIN], FilterTable.compile([]), pace="fast", loop=True, export=False)
    with pytest.raises(DataPlaneError):
        next(tap)
    tap.start()
    with pytest.raises(DataPlaneError):
        tap.start()
    first = tap.stats()
    assert tap.install(table()) == 2
    while tap.stats().matched == 0:
        pass
    assert tap.install(FilterTable.compile([])) == 3
    stopped = tap.stats()
    again = tap.stats()
    # Nothing is copied any more once install has returned.
    assert again.matched == stopped.matched
    assert again.frames > first.frames
    last = tap.stop()
    assert last.generation == 3
    assert tap.stats().frames == last.frames
    with pytest.raises(DataPlaneError):
        tap.install(table())


def test_times_do_not_depend_on_how_long_a_tap_waited_for_its_start() -> None:
    with Tap.replay([PLAIN], table(), pace="fast", export=False) as tap:
        time.sleep(0.3)
        began_ns = time.monotonic_ns()
        tap.start()
        while not tap.finished:
            time.sleep(0.01)
        stats = tap.stop()
    last_ns = max(each.last_match_ns or 0 for each in stats.criteria)
    assert began_ns < last_ns < time.monotonic_ns()


def test_a_tap_says_why_it_ended_early(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(Path(PLAIN).read_bytes()[:5000])
    tap = Tap.replay([str(cut)], table(), pace="fast", export=False)
    tap.start()
    while not tap.finished:
        pass
    assert str(cut) in (tap.error or "")
    assert tap.stop().frames > 10
    for pace in ("quick", 0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="pace"):
            Tap.replay([PLAIN], table(), pace=pace)  # type: ignore[arg-type]


# In a program of its own: an interpreter that stands still cannot be ended from within.
ERRORS_BESIDE_QUESTIONS = """
import sys, threading
from flowtap import DataPlaneError, FilterTable, Tap
table = FilterTable.compile([])
for _ in range(200):
    tap = Tap.replay([sys.argv[1]], table, pace="fast", export=False)
    tap.start()
    def refused():
        for call in (lambda: tap.stop(0.0), tap.start, lambda: tap.install(table), tap.stats):
            try:
                call()
            except DataPlaneError:
                pass
    beside = threading.Thread(target=refused)
    beside.start()
    while beside.is_alive():
        tap.finished, tap.error, tap.events()
"""


def test_an_error_beside_a_question_ends_both() -> None:
    subprocess.run([sys.executable, "-c", ERRORS_BESIDE_QUESTIONS, PLAIN], check=True, timeout=60)


def test_pace() -> None:
    tap = Tap.replay([PLAIN], table(), pace=200, export=False)
    tap.start()
    threading.Event().wait(0.25)
    assert 20 < tap.stop().frames < 120


def test_nothing_survives_a_fork() -> None:
    engine = Engine(table())
    tap = Tap.replay([PLAIN], table(), pace="fast", export=False)
    tap.start()
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: engine.feed(b""), engine.stats, tap.stats, tap.stop):
            try:
                use()
            except DataPlaneError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    tap.stop()


def test_engines_work_beside_each_other() -> None:
    data = frames()
    results: list[int] = []

    def work() -> None:
        engine = Engine(table())
        for frame in data * 20:
            engine.feed(frame)
        results.append(engine.stats().matched)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [45 * 20] * 4


def test_the_package_has_one_version() -> None:
    manifest = Path(__file__).parents[3] / "Cargo.toml"
    assert f'version = "{flowtap.__version__}"' in manifest.read_text()


def test_criteria_as_values() -> None:
    left = Criteria(1, source="192.0.2.0-192.0.2.255", protocol=17, destination_port="53")
    right = Criteria(2, source="192.0.2.0/24", protocol="17", destination_port=53)
    assert left.same_filter(right)
    assert left.overlaps(right)
    assert left.normal_form() == "source=192.0.2.0/24 protocol=17 destination_port=53"
    assert not left.overlaps(Criteria(3, destination_port=54))
    assert (right.source, right.protocol, right.destination_port, right.icmp_type) == (
        "192.0.2.0/24",
        "17",
        "53",
        None,
    )


def test_a_signal_ends_a_replay(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    data = Path(PLAIN).read_bytes()

    def feed() -> None:
        with fifo.open("wb", buffering=0) as feeding:
            feeding.write(data)
            signal.raise_signal(signal.SIGALRM)
            try:
                for _ in range(200_000):
                    feeding.write(data[24:])
            except BrokenPipeError:
                pass

    class AlarmedError(Exception):
        pass

    def alarmed(_number: int, _frame: object) -> None:
        raise AlarmedError

    before = signal.signal(signal.SIGALRM, alarmed)
    feeding = threading.Thread(target=feed)
    try:
        feeding.start()
        replay = Replay([str(fifo)], table())
        with pytest.raises(AlarmedError):
            replay.run()
    finally:
        signal.signal(signal.SIGALRM, before)
        feeding.join()
    assert replay.frames < 141 * 200_000
