"""Proposals, and what was negotiated of them."""

from __future__ import annotations

import pytest

from flowtap.delivery.proposals import Negotiated, Proposal

AES_GCM = Negotiated("AES_GCM_16", 256, "", "ECP_384")


@pytest.mark.parametrize(
    ("text", "negotiated"),
    [
        ("3des-sha1", Negotiated("3DES_CBC", None, "HMAC_SHA1_96", "")),
        ("3des-sha1-modp1024", Negotiated("3DES_CBC", None, "HMAC_SHA1_96", "MODP_1024")),
        ("aes256gcm16-ecp384", AES_GCM),
        ("aes256gcm128-ecp384", AES_GCM),
        # The first child has no key exchange of its own.
        ("aes256gcm16-ecp384", Negotiated("AES_GCM_16", 256, "", "")),
        ("aes256gcm16-prfsha384-ecp384", AES_GCM),
        ("aes128-aes256-sha1-sha256-modp2048", Negotiated("AES_CBC", 256, "HMAC_SHA2_256_128", "MODP_2048")),
        ("aes-sha256", Negotiated("AES_CBC", 128, "HMAC_SHA2_256_128", "")),
        ("aes128ctr-sha512", Negotiated("AES_CTR", 128, "HMAC_SHA2_512_256", "")),
        ("chacha20poly1305-x25519", Negotiated("CHACHA20_POLY1305", None, "", "CURVE_25519")),
        ("chacha20poly1305", Negotiated("CHACHA20_POLY1305", 256, "", "")),
        ("aes128ccm12-modp1024s160", Negotiated("AES_CCM_12", 128, "", "MODP_1024_160")),
        ("camellia192-sha384-ecp256bp", Negotiated("CAMELLIA_CBC", 192, "HMAC_SHA2_384_192", "ECP_256_BP")),
        ("aes256gcm16-ecp384-ke1_mlkem768-noesn", AES_GCM),
    ],
)
def test_it_covers(text: str, negotiated: Negotiated) -> None:
    assert Proposal.read(text).covers(negotiated)


@pytest.mark.parametrize(
    ("text", "negotiated"),
    [
        ("aes256gcm16", Negotiated("NULL", None, "HMAC_SHA2_256_128", "")),
        ("aes256gcm16", Negotiated("", None, "", "")),
        ("aes256gcm16", Negotiated("AES_GCM_16", 128, "", "")),
        ("aes256gcm16", Negotiated("AES_GCM_8", 256, "", "")),
        ("aes256gcm16", AES_GCM),
        ("aes256-sha256", Negotiated("AES_CBC", 256, "HMAC_SHA1_96", "")),
        ("aes256-sha256", Negotiated("AES_CBC", 256, "", "")),
        ("aes256-sha256", Negotiated("3DES_CBC", None, "HMAC_SHA2_256_128", "")),
        ("aes256-sha256-modp2048", Negotiated("AES_CBC", 256, "HMAC_SHA2_256_128", "MODP_1024")),
    ],
)
def test_it_does_not_cover(text: str, negotiated: Negotiated) -> None:
    assert not Proposal.read(text).covers(negotiated)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aes256gcm16-rot13", "'rot13' is no algorithm"),
        ("sha256-modp2048", "has no encryption"),
        ("null-sha256", "'null' is no algorithm"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Proposal.read(text)


def test_algorithms_in_words() -> None:
    assert str(AES_GCM) == "AES_GCM_16_256/ECP_384"
    assert str(Negotiated("", None, "", "")) == "nothing"
