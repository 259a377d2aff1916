"""What a tunnel's own side proves itself with; nothing of it is ever printed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowtap.config import read_secret, refuse_written_by_others
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from flowtap.config import LoadedConfiguration

__all__ = ["TunnelSecrets", "read_tunnel_secrets"]

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TunnelSecrets:
    """Either the secret that both sides share, or certificates with a private key.

    Attributes:
        pre_shared_key: The secret; None where certificates are used.
        certificates: The own one first, those between it and its authority behind it.
        private_key: That of the own certificate.
        authorities: Who must have signed the other side's certificate.
    """

    pre_shared_key: bytes | None = field(default=None, repr=False)
    certificates: tuple[bytes, ...] = field(default=(), repr=False)
    private_key: bytes | None = field(default=None, repr=False)
    authorities: tuple[bytes, ...] = field(default=(), repr=False)


def read_tunnel_secrets(configuration: LoadedConfiguration, name: str) -> TunnelSecrets:
    """Reads the files that ``[tunnel.NAME]`` names.

    Raises:
        ConfigurationError: One cannot be read, is not what it should be, or others can read what is secret.
    """
    section, key = configuration.values.tunnel[name], f"tunnel.{name}"
    if section.pre_shared_key_file is not None:
        secret = read_secret(configuration, section.pre_shared_key_file, f"{key}.pre_shared_key_file")
        return TunnelSecrets(pre_shared_key=secret)
    if section.certificate_file is None or section.private_key_file is None or section.authority_file is None:
        # The schema has refused this.
        raise ConfigurationError(f"{key}: has nothing to prove itself with", key=key)
    return TunnelSecrets(
        certificates=_certificates(configuration, section.certificate_file, f"{key}.certificate_file"),
        private_key=read_secret(configuration, section.private_key_file, f"{key}.private_key_file"),
        authorities=_certificates(configuration, section.authority_file, f"{key}.authority_file"),
    )


def _certificates(configuration: LoadedConfiguration, name: str, key: str) -> tuple[bytes, ...]:
    """The certificates of a file: several in PEM, or one in DER."""
    path = configuration.locate(name)
    try:
        # Whoever changes it decides whom the tunnel leads to.
        refuse_written_by_others(path, key)
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{key}: {path}: cannot be read: {error.strerror}", key=key) from None
    found = tuple(_PEM.findall(content))
    if not found and not content.startswith(b"\x30"):
        raise ConfigurationError(f"{key}: {path}: has no certificate; PEM or DER is right", key=key)
    return found or (content,)
