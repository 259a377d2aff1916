from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp import authentication
from flowtap.dtcp.authentication import Key

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


@pytest.mark.ledger("T-065", "T-074")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_known_answers(vector: dict[str, object]) -> None:
    key = Key(str(vector.get("key", "Juniper")).encode())
    lines = vector["lines"]
    assert isinstance(lines, list)
    text = "".join(f"{line}\r\n" for line in lines).encode()
    assert authentication.digest(text, key) == vector["mac"]
    wire = text + f"AUTHENTICATION-INFO:  {str(vector['mac']).upper()}\r\n\r\n".encode()
    split_text, given = authentication.split(wire)
    assert split_text == text
    assert given is not None
    assert authentication.authenticate(split_text, given, key)
    assert not authentication.authenticate(split_text + b" ", given, key)
    assert not authentication.authenticate(split_text, given, Key(b"another"))


@pytest.mark.ledger("T-080")
def test_what_stands_behind_the_digest_is_disregarded() -> None:
    text, given = authentication.split(b"NOOP DTCP/0.7\r\nAuthentication-Info: ab\r\nSeq: 9\r\n\r\n")
    assert (text, given) == (b"NOOP DTCP/0.7\r\n", "ab")


def test_no_digest() -> None:
    assert authentication.split(b"NOOP DTCP/0.7\r\n\r\n") == (b"NOOP DTCP/0.7\r\n\r\n", None)


def test_the_digest_may_be_anything() -> None:
    assert not authentication.authenticate(b"", "\u00e9\u4e2d", Key(b"k"))


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(Key(b"secret"))


@given(
    st.lists(
        st.sampled_from([b"\n", b"\r\n", b"A: b", b"Authentication-Info:", b" 12ab", b"\xff"]), max_size=20
    )
)
def test_the_first_line_of_that_name_carries_it(parts: list[bytes]) -> None:
    message = b"".join(parts)
    lines = message.split(b"\n")
    at = next((at for at, line in enumerate(lines) if line.lower().startswith(b"authentication-info:")), None)
    text, digits = authentication.split(message)
    if at is None:
        assert (text, digits) == (message, None)
    else:
        assert text == b"".join(line + b"\n" for line in lines[:at])
        assert digits == lines[at][20:].strip().decode("ascii", "replace")
