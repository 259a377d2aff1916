"""Any octets are a request, a clear error, or nothing: for hypothesis, with fewer cases than the gate's own run has."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import dtcp_octets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtap import dtcp
from flowtap.dtcp import Limits
from flowtap.dtcp.stream import MessageReader

Check = Callable[[bytes, random.Random], None]
sources = st.randoms(note_method_calls=False, use_true_random=False)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("check", dtcp_octets.CHECKS, ids=lambda each: each.__name__)
@relaxed
@given(st.binary(max_size=600), sources)
def test_any_octets(check: Check, octets: bytes, source: random.Random) -> None:
    check(octets, source)


@pytest.mark.parametrize("check", dtcp_octets.CHECKS, ids=lambda each: each.__name__)
@relaxed
@given(sources)
def test_messages_that_are_nearly_right(check: Check, source: random.Random) -> None:
    check(dtcp_octets.spoiled(source), source)


@pytest.fixture(scope="module")
def tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dtcp_octets.Tasked]:
    tasked = dtcp_octets.Tasked(tmp_path_factory.mktemp("tap"))
    yield tasked
    tasked.close()


@relaxed
@given(sources)
def test_whatever_can_be_read_is_answered(tap: dtcp_octets.Tasked, source: random.Random) -> None:
    tap.check(dtcp_octets.spoiled(source), source)


@pytest.mark.parametrize("at", range(len(dtcp_octets.SEEDS)))
def test_every_seed_in_every_pair_of_pieces(at: int) -> None:
    """One cut at every place, which random cuts may miss."""
    seed = dtcp_octets.SEEDS[at]
    stream = (
        seed + f"Authentication-Info: {dtcp.authentication.digest(seed, dtcp_octets.KEY)}\r\n\r\n".encode()
    )
    whole = list(messages([stream]))
    for cut in range(len(stream) + 1):
        assert list(messages([stream[:cut], stream[cut:]])) == whole


def messages(pieces: list[bytes]) -> Iterator[bytes | None]:
    reader = MessageReader(Limits())
    for piece in pieces:
        reader.feed(piece)
        while True:
            try:
                yield reader.next_message()
            except LookupError:
                break


def test_what_is_spoiled_is_often_read_all_the_same() -> None:
    """A fuzzer whose octets are all thrown away at the door finds nothing behind it."""
    seen = {"received": 0, "refused": 0, "silent": 0}
    codes = set()
    for number in range(3_000):
        source = random.Random(number)  # noqa: S311 - to be repeated
        for event in dtcp_octets.events([dtcp_octets.spoiled(source) + b"\n\r\n"]):
            match event:
                case dtcp.RequestReceived():
                    seen["received"] += 1
                case dtcp.RequestRefused():
                    seen["refused"] += 1
                    codes.add(int(event.error.status))
                case dtcp.Rejected():
                    seen["silent"] += 1
    assert min(seen.values()) > 300, seen
    assert codes >= {400, 432, 433, 501, 505, 901}, codes


def test_a_fuzzer_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that loses an octet at a cut."""

    class Careless(MessageReader):
        def feed(self, data: bytes) -> None:
            super().feed(data[1:] if data.startswith(b"\n") else data)

    monkeypatch.setattr(dtcp.session, "MessageReader", Careless)
    with pytest.raises(dtcp_octets.CaseError) as caught:
        dtcp_octets.spoil(20, 0)
    assert isinstance(caught.value.__cause__, AssertionError)
