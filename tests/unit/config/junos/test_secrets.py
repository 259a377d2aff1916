from __future__ import annotations

import pytest

from flowtap.config.junos.secrets import deobfuscate, is_crypt_hash, is_obfuscated, is_sealed, secret_file
from flowtap.config.load import without_line_end

VECTORS = [
    # Published with other readers of this form, and made with one of them.
    ("$9$LbHX-wg4Z", b"lc"),
    (
        "$9$NTbs2aZUHkP36yeMWN-oaZDm56/At01IE7-w2UDTQFn6ABIcrKM/CEcrvx7dbw2JDf5Q3/A7-Q3n/0OIRhSKW",
        b"'3cFQRIZFP@/{Jau2i*^\"r(RY[dBQ",
    ),
]


@pytest.mark.parametrize(("text", "secret"), VECTORS)
def test_what_is_only_obfuscated_is_read(text: str, secret: bytes) -> None:
    assert is_obfuscated(text)
    assert deobfuscate(text) == secret


@pytest.mark.parametrize(
    "text", ["$9$!", "$9$L", "$9$LbHX-wg4", "$9$LbHX-wg4!", "$9$ä", "$9$LbHX wg4Z", "$9$QzF3"]
)
def test_what_is_damaged_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is no \$9\$ text") as caught:
        deobfuscate(text)
    assert text.removeprefix("$9$") not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "is_hash"),
    [
        ("$1$abcdefgh$0123456789012345678901", True),
        ("$5$rounds=5000$salt$hash", True),
        ("$6$salt$hash", True),
        ("$6$", False),
        ("password_for_ft-ttp", False),
        ("$ecret", False),
        ("", False),
    ],
)
def test_hashes_are_known(text: str, is_hash: bool) -> None:
    assert is_crypt_hash(text) is is_hash


def test_what_the_router_has_sealed_is_known() -> None:
    assert is_sealed("$8$aes256-gcm$hmac-sha2-256$100$abc")
    assert not is_sealed("$9$LbHX-wg4Z")


@pytest.mark.parametrize("secret", [b"a", b"a\n", b"a\r", b"a\r\n", b"\n\n", b"a\n\r", b"\r"])
def test_a_secret_is_read_back_as_it_was(secret: bytes) -> None:
    assert without_line_end(secret_file(secret)) == secret
