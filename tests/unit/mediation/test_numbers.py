from __future__ import annotations

from pathlib import Path

import pytest

from flowtap.mediation import NumbersError, SequenceNumbers


@pytest.mark.ledger("T-048", "T-056")
def test_a_number_is_kept_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "new" / "numbers"
    numbers = SequenceNumbers(path, first=7)
    assert [numbers.next() for _ in range(3)] == [7, 8, 9]
    assert path.read_text() == "9\n"
    # What is kept counts, not where somebody wants to begin.
    assert SequenceNumbers(path, first=100).next() == 10


def test_without_a_file_numbers_are_only_counted() -> None:
    assert [SequenceNumbers().next(), SequenceNumbers(first=5).next()] == [1, 5]


def test_numbers_go_round(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_text(str(2**64 - 1))
    assert SequenceNumbers(path).next() == 0


@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"18446744073709551616", b"\xff", "٣".encode()])
def test_files_that_hold_no_number(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "numbers").write_bytes(text)
    with pytest.raises(NumbersError, match="numbers"):
        SequenceNumbers(tmp_path / "numbers")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(NumbersError, match="cannot be read"):
        SequenceNumbers(tmp_path)
    numbers = SequenceNumbers(tmp_path / "new" / "numbers")
    (tmp_path / "new").write_text("")
    with pytest.raises(NumbersError, match="cannot be written"):
        numbers.next()
