"""A key for copies on disk stands in the configuration before anything waits there."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon import FOR_EVER, end, start, write_configuration

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("has_directory", [False, True])
def test_a_daemon_without_tunnels_starts_with_a_spool_key(tmp_path: Path, has_directory: bool) -> None:
    write_configuration(tmp_path, FOR_EVER, '[spool]\nkey_file = "spool.key"')
    (tmp_path / "spool.key").write_bytes(bytes(32))
    (tmp_path / "spool.key").chmod(0o600)
    if has_directory:
        (tmp_path / "spool").mkdir(mode=0o700)
    tap = start(tmp_path)
    end(tap)
    assert tap.process.returncode == 0
    assert "Traceback" not in tap.log
