from __future__ import annotations

from pathlib import Path

import pytest

from flowtap.config import LoadedConfiguration, load
from flowtap.errors import ConfigurationError
from flowtap.service.logins import Logins, hash_password

TEXT = """
[element]
interfaces = ["eth0"]
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.user.md]
class = "tasker"
password_hash_file = "md.hash"
[dtcp.ssh]
host_key_file = "host_key"
"""


def configuration(directory: Path, password_hash: str) -> LoadedConfiguration:
    path = directory / "flowtap.toml"
    path.write_text(TEXT)
    secret = directory / "md.hash"
    secret.touch(mode=0o600)
    secret.write_text(password_hash)
    return load(path)


@pytest.mark.asyncio
async def test_a_locked_login_has_no_right_password(tmp_path: Path) -> None:
    logins = Logins(configuration(tmp_path, "!\n"))
    login = logins.get("md")
    assert login is not None
    assert login.password_hash is None
    for password in ("", "!", "!\n", "secret"):
        assert not await logins.check_password("md", password)


@pytest.mark.asyncio
async def test_it_is_open_again_with_a_hash(tmp_path: Path) -> None:
    logins = Logins(configuration(tmp_path, hash_password("secret") + "\n"))
    assert await logins.check_password("md", "secret")
    assert not await logins.check_password("md", "!")


@pytest.mark.parametrize("text", ["!!", "!$6$salt$hash", "*", "secret"])
def test_nothing_else_is_taken_for_a_lock(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no Argon2 hash"):
        Logins(configuration(tmp_path, text))
