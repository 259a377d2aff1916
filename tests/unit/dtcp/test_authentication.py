from __future__ import annotations

import json
from pathlib import Path

import pytest

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
