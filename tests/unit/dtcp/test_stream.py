from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp.limits import Limits
from flowtap.dtcp.stream import MessageReader

SMALL = Limits(message_octets=64, lines=4)


def everything(reader: MessageReader) -> list[bytes | None]:
    messages = []
    while True:
        try:
            messages.append(reader.next_message())
        except LookupError:
            return messages


def read(*pieces: bytes, limits: Limits = SMALL) -> list[bytes | None]:
    reader = MessageReader(limits)
    for piece in pieces:
        reader.feed(piece)
    return everything(reader)


@pytest.mark.ledger("T-072")
@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"", []),
        (b"A\r\n", []),
        (b"A\r\n\r\n", [b"A\r\n\r\n"]),
        (b"A\n\n", [b"A\n\n"]),
        (b"\r\n\n\r\nA\n\r\n\nB\r\n\n", [b"A\n\r\n", b"B\r\n\n"]),
        (b"A\rB\r\n\r\n", [b"A\rB\r\n\r\n"]),
        (b"x" * 65 + b"\r\n\r\nA\n\n", [None, b"A\n\n"]),
        (b"1\n2\n3\n4\n5\n\nA\n\n", [None, b"A\n\n"]),
        (b"x" * 500 + b"\n" + b"y" * 500 + b"\n\nA\n\n", [None, b"A\n\n"]),
    ],
)
def test_messages(data: bytes, messages: list[bytes | None]) -> None:
    assert read(data) == messages
    assert read(*[data[at : at + 1] for at in range(len(data))]) == messages


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"A", b"Bcd: e", b"x" * 40]), max_size=40), st.data())
def test_any_cut_gives_the_same_messages(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    octets = [stream[at : at + 1] for at in range(len(stream))]
    assert read(*pieces) == read(stream) == read(*octets)


@given(st.binary(max_size=2000))
def test_memory_is_bounded(stream: bytes) -> None:
    reader = MessageReader(SMALL)
    for at in range(0, len(stream), 7):
        reader.feed(stream[at : at + 7])
        assert reader.pending_octets <= SMALL.message_octets
