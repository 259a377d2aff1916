from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flowtap.errors import ConfigurationError
from flowtap.service.show import _listen


def test_who_finds_the_socket_can_connect(tmp_path: Path) -> None:
    """Even before the daemon's loop runs; another daemon finds that somebody listens."""
    path = tmp_path / "flowtap.sock"
    with _listen(path), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))
        with pytest.raises(ConfigurationError):
            _listen(path)
    # Left behind by a daemon that was killed.
    with _listen(path):
        pass
