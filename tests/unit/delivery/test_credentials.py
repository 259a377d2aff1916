"""Files that a tunnel proves itself with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sections import section

from flowtap.config import Configuration, LoadedConfiguration
from flowtap.delivery.credentials import TunnelSecrets, read_tunnel_secrets
from flowtap.errors import ConfigurationError

PEM = b"-----BEGIN CERTIFICATE-----\nMII%d\n-----END CERTIFICATE-----\n"
OTHERS: dict[str, Any] = {"element": {"interfaces": ["lo"]}, "dtcp": {"ssh": {"host_key_file": "key"}}}


def loaded(directory: Path, **changes: Any) -> LoadedConfiguration:
    made = section(**changes).model_dump(mode="json", exclude_defaults=True)
    values = Configuration.model_validate({**OTHERS, "tunnel": {"md": made}})
    return LoadedConfiguration(directory / "flowtap.toml", values)


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


CERTIFIED = {
    "pre_shared_key_file": None,
    "certificate_file": "own.pem",
    "private_key_file": "own.key",
    "authority_file": "ca.pem",
}


def test_a_shared_secret(tmp_path: Path) -> None:
    write(tmp_path / "secret", b" a\xffb \n")
    secrets = read_tunnel_secrets(loaded(tmp_path), "md")
    assert secrets == TunnelSecrets(pre_shared_key=b" a\xffb ")
    (tmp_path / "secret").chmod(0o640)
    with pytest.raises(ConfigurationError, match="others can read it") as refused:
        read_tunnel_secrets(loaded(tmp_path), "md")
    assert refused.value.key == "tunnel.md.pre_shared_key_file"


def test_certificates(tmp_path: Path) -> None:
    write(tmp_path / "own.pem", b"Subject: words before it\n" + PEM % 1 + PEM % 2, 0o644)
    write(tmp_path / "own.key", b"key\n")
    write(tmp_path / "ca.pem", PEM % 3, 0o644)
    secrets = read_tunnel_secrets(loaded(tmp_path, **CERTIFIED), "md")
    assert secrets.certificates == (PEM % 1, PEM % 2)
    assert (secrets.private_key, secrets.authorities) == (b"key", (PEM % 3,))
    write(tmp_path / "ca.pem", b"\x30\x82der", 0o644)
    assert read_tunnel_secrets(loaded(tmp_path, **CERTIFIED), "md").authorities == (b"\x30\x82der",)


@pytest.mark.parametrize(
    ("name", "content", "mode", "reason"),
    [
        ("own.pem", None, 0, "cannot be read"),
        ("own.pem", b"words", 0o644, "has no certificate"),
        ("ca.pem", b"", 0o644, "has no certificate"),
        ("ca.pem", PEM % 1, 0o666, "others can change it"),
        ("own.key", b"key", 0o644, "others can read it"),
    ],
)
def test_files_that_will_not_do(
    tmp_path: Path, name: str, content: bytes | None, mode: int, reason: str
) -> None:
    write(tmp_path / "own.pem", PEM % 1)
    write(tmp_path / "own.key", b"key")
    write(tmp_path / "ca.pem", PEM % 2)
    if content is None:
        (tmp_path / name).unlink()
    else:
        write(tmp_path / name, content, mode)
    with pytest.raises(ConfigurationError, match=reason) as refused:
        read_tunnel_secrets(loaded(tmp_path, **CERTIFIED), "md")
    keys = {"own.pem": "certificate_file", "own.key": "private_key_file", "ca.pem": "authority_file"}
    assert refused.value.key == f"tunnel.md.{keys[name]}"
